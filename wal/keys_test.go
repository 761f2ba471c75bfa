package wal

import (
	"fmt"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// keyMail is a message with a key, in a queue that nobody serves.
func keyMail(key string) Message {
	m := mailing("mail of " + key)
	m.Key = key
	return m
}

func keyed(t *testing.T, s *Store, key string) ID {
	t.Helper()
	id, err := s.Enqueue(t.Context(), keyMail(key))
	if err != nil {
		t.Fatalf("enqueue with key %q: %v", key, err)
	}
	return id
}

// Within its window a key gives the first ID: also when the message has been used and its
// segment was given another life, in the next life of the store, and after a power cut. Behind
// it the key is a new one, also when nothing was committed in between.
func TestKeyWindow(t *testing.T) {
	for _, ends := range []string{"closed", "killed", "cut"} {
		t.Run(ends, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				o := tiny(fs)
				o.KeyWindow = time.Hour
				s := started(t, o)
				first := keyed(t, s, "k")
				if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
					t.Fatal(err)
				}
				for range 40 { // it is in no segment any more
					posted(t, s, "other")
					if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Compact(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n := s.Segments()[0].Number; n == 1 {
					t.Fatal("segment 1 is still there")
				}
				time.Sleep(30 * time.Minute)
				if ends == "closed" {
					ended(t, s)
				} else {
					fs = fs.Clone()
					if fs.Kill(); ends == "cut" {
						fs.PowerCutWith(allOfIt)
					}
					o.fs = fs
				}
				s = started(t, o)
				time.Sleep(30*time.Minute - time.Second)
				if id := keyed(t, s, "k"); id != first || s.Stats().Pending != 0 {
					t.Errorf("within its window the key gave %v, the first was %v", id, first)
				}
				time.Sleep(2 * time.Second)
				second := keyed(t, s, "k")
				if second == first || s.Stats().Pending != 1 {
					t.Errorf("behind its window the key gave %v", second)
				}
				// Its own window has begun.
				time.Sleep(time.Hour - time.Second)
				posted(t, s, "other")
				if id := keyed(t, s, "k"); id != second {
					t.Errorf("the key of the second gave %v, should be %v", id, second)
				}
				ended(t, s)
			})
		})
	}
}

// However many keys come, the last KeyMax are remembered, and about no more.
func TestKeyMax(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := roomy(fs)
		o.KeyMax = 10
		s := started(t, o)
		ids := map[string]ID{}
		key := func(i int) string { return fmt.Sprint("key ", i) }
		for i := range 50 {
			ids[key(i)] = keyed(t, s, key(i))
		}
		posted(t, s, "moves the window")
		if n := len(s.table.Keys()); n > 10 {
			t.Errorf("%d keys are remembered", n)
		}
		ended(t, s)
		s = started(t, o)
		for i := 40; i < 50; i++ {
			if id := keyed(t, s, key(i)); id != ids[key(i)] {
				t.Errorf("key %d of 50 gave %v, should be %v", i, id, ids[key(i)])
			}
		}
		if id := keyed(t, s, key(39)); id == ids[key(39)] {
			t.Error("the eleventh key is still remembered")
		}
		ended(t, s)
	})
}
