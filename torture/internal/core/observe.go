package core

import (
	"context"
	"fmt"

	"github.com/mtawal/mtawal/torture/internal/mail"
	"github.com/mtawal/mtawal/wal"
)

// observe lists all that a store shows, and claims all of it, without starting a delivery,
// to look at the bodies.
func (l *life) observe() ([]*wal.Delivery, error) {
	ctx := context.Background()
	seen := &mail.Observation{Messages: map[string]*mail.SeenMessage{}}
	silent := func(format string, args ...any) {
		seen.Silent = append(seen.Silent, fmt.Sprintf(format, args...))
	}
	st := l.store.Stats()
	if st.Enqueued != st.Used.Total()+st.Pending+st.Deferred+st.Held+st.Claimed+st.Damaged {
		silent("the counts do not add up: %+v", st)
	}
	queues := map[string]bool{}
	listed := 0
	for e, err := range l.store.Entries(ctx, wal.Filter{}) {
		if err != nil {
			return nil, fmt.Errorf("list the entries: %w", err)
		}
		listed++
		key := string(e.Envelope)
		want, size, _ := l.maker.Head(key)
		if e.Recipient >= len(want.Recipients) || want.Recipients[e.Recipient].Address != e.Address || want.Recipients[e.Recipient].Queue != e.Queue || e.Size != int64(size) {
			seen.Invented = append(seen.Invented, fmt.Sprintf("message %q, recipient %d: %q in queue %q, body of %d bytes", key, e.Recipient, e.Address, e.Queue, e.Size))
			continue
		}
		if e.Err != nil {
			silent("message %s, recipient %d: set aside after a mere power cut: %v", key, e.Recipient, e.Err)
		}
		m := seen.Messages[key]
		if m == nil {
			m = &mail.SeenMessage{ID: uint64(e.ID), Recipients: map[int]mail.Seen{}}
			seen.Messages[key] = m
		}
		if m.ID != uint64(e.ID) {
			seen.Invented = append(seen.Invented, fmt.Sprintf("message %s is there twice, as %d and as %d", key, m.ID, e.ID))
			continue
		}
		m.Recipients[e.Recipient] = mail.Seen{InDoubt: e.InDoubt, Note: string(e.Note), Attempts: e.Attempts}
		queues[e.Queue] = true
	}
	if int64(listed) != st.WorkQueueLength {
		silent("the Work Queue Length is %d, and %d recipients are listed", st.WorkQueueLength, listed)
	}
	l.resp.Seen = seen
	return l.claimAll(ctx, seen, queues)
}

func (l *life) claimAll(ctx context.Context, seen *mail.Observation, queues map[string]bool) ([]*wal.Delivery, error) {
	silent := func(format string, args ...any) {
		seen.Silent = append(seen.Silent, fmt.Sprintf(format, args...))
	}
	con, err := l.store.Consumer(wal.ConsumerOptions{ManualStart: true, InFlight: 32768})
	if err != nil {
		return nil, fmt.Errorf("open a consumer: %w", err)
	}
	defer con.Close()
	var all []*wal.Delivery
	got := 0
	for queue := range queues {
		if err := l.store.Flush(ctx, queue); err != nil {
			return nil, fmt.Errorf("flush queue %s: %w", queue, err)
		}
		for {
			d, ok := con.TryNext(queue)
			if !ok {
				break
			}
			all = append(all, d)
			key := string(d.Envelope)
			m := seen.Messages[key]
			for _, r := range d.Recipients {
				got++
				if m == nil || uint64(d.ID) != m.ID {
					seen.Invented = append(seen.Invented, fmt.Sprintf("message %q is handed out as %d and not listed", key, d.ID))
					continue
				}
				s, ok := m.Recipients[r.Index]
				if !ok || s.InDoubt != r.InDoubt || s.Note != string(r.Note) {
					silent("message %s, recipient %d is handed out as %+v and listed as %+v", key, r.Index, r, s)
				}
			}
			if err := l.maker.Check(key, d.Body); err != nil {
				silent("%v", err)
			}
		}
	}
	if want := l.store.Stats().WorkQueueLength; int64(got) != want {
		silent("%d recipients are handed out, and the Work Queue Length is %d", got, want)
	}
	return all, nil
}
