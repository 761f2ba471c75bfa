package wal_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/mtawal/mtawal/wal"
)

// A message is accepted, handed to a worker, and marked used.
func Example() {
	dir, err := os.MkdirTemp("", "spool-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := wal.Open(dir, wal.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ctx := context.Background()
	_, err = store.Enqueue(ctx, wal.Message{ // nil: survives a power cut. Now answer 250.
		Envelope:   []byte("MAIL FROM:<ann@example.com>"),
		Body:       []byte("Subject: hello\r\n\r\nDear Bob\r\n"),
		Recipients: []wal.Recipient{{Queue: "smtp:example.org", Address: "bob@example.org"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	d, err := store.Claim(ctx, "smtp:example.org") // waits for mail
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes to %s\n", d.Body.Size(), d.Recipients[0].Address)
	if err := d.SettleAll(ctx, wal.Delivered); err != nil { // nil: never handed out again
		log.Fatal(err)
	}
	fmt.Println("work queue length:", store.Stats().WorkQueueLength)
	// Output:
	// 28 bytes to bob@example.org
	// work queue length: 0
}
