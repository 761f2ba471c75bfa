package core

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/torture/internal/mail"
	"github.com/mtawal/mtawal/wal"
)

// consumer claims, hands over and settles.
type consumer struct {
	*life
	rng      *rand.Rand
	handouts *atomic.Int64
}

func (c *consumer) run(ctx context.Context) error {
	manual := c.rng.IntN(3) == 0
	con, err := c.store.Consumer(wal.ConsumerOptions{ManualStart: manual, MaxRecipients: 1 + c.rng.IntN(4)})
	if err != nil {
		return err
	}
	defer con.Close()
	for {
		d, err := con.Next(ctx)
		if err != nil {
			return err
		}
		if manual {
			if c.rng.IntN(10) == 0 {
				d.Release()
				continue
			}
			switch err := d.Start(context.Background()); {
			case errors.Is(err, wal.ErrSettled), errors.Is(err, wal.ErrUsed):
				continue // removed meanwhile
			case err != nil:
				return fmt.Errorf("start: %w", err)
			}
		}
		if err := c.deliver(ctx, d); err != nil {
			return err
		}
	}
}

func (c *consumer) deliver(ctx context.Context, d *wal.Delivery) error {
	key, n := string(d.Envelope), int(c.handouts.Add(1))
	var words []string
	for _, r := range d.Recipients {
		w := fmt.Sprintf("%d@%d", r.Index, r.Attempts)
		if r.InDoubt {
			w += "!"
		}
		words = append(words, w)
	}
	c.mark(fmt.Sprintf("H %s %d %s", key, n, strings.Join(words, ",")))
	if c.rng.IntN(3) == 0 {
		if err := c.maker.Check(key, d.Body); err != nil && !errors.Is(err, wal.ErrSettled) && !errors.Is(err, wal.ErrClosed) {
			c.trouble("%v", err)
		}
	}
	switch p := c.rng.IntN(100); {
	case p < 4:
		return nil // it hangs: nobody settles it
	case p < 12:
		wait(ctx, time.Duration(c.rng.Int64N(int64(80*time.Millisecond))))
	case p < 50:
		wait(ctx, time.Duration(c.rng.Int64N(int64(4*time.Millisecond))))
	}
	if ctx.Err() != nil {
		return nil
	}
	codes := map[int]byte{}
	if c.rng.IntN(20) == 0 {
		for _, r := range d.Recipients {
			codes[r.Index] = mail.Released
		}
		c.mark(fmt.Sprintf("S %s %d %s", key, n, mail.Codes(codes)))
		d.Release()
		return nil
	}
	return c.settle(d, key, n, codes)
}

func (c *consumer) settle(d *wal.Delivery, key string, n int, codes map[int]byte) error {
	b := wal.Batch{Settle: []wal.Settlement{{Delivery: d}}}
	var lines, bounces []string
	for _, r := range d.Recipients {
		o := wal.Outcome{Recipient: r.Index, Note: []byte(mail.NoteOf(n))}
		switch p := c.rng.IntN(100); {
		case p < 65:
			o.Result, codes[r.Index] = wal.Delivered, mail.Delivered
		case p < 75:
			o.Result, codes[r.Index] = wal.Failed, mail.Failed
			if strings.HasPrefix(key, "bounce-") {
				break // for a bounce there is none
			}
			bounce := mail.Bounce(key, r.Index)
			msg := c.maker.Message(bounce)
			msg.Key = "" // it may have been tried before
			b.Enqueue = append(b.Enqueue, msg)
			bounces = append(bounces, bounce)
			lines = append(lines, fmt.Sprintf("I %s 1 -", bounce))
		case p < 93:
			later := time.Duration(c.rng.Int64N(int64(100 * time.Millisecond)))
			if p < 80 {
				later = time.Hour
			}
			o.Result, o.Until, codes[r.Index] = wal.Deferred, time.Now().Add(later), mail.Deferred
		default:
			o.Result, codes[r.Index] = wal.Uncertain, mail.Uncertain
		}
		b.Settle[0].Outcomes = append(b.Settle[0].Outcomes, o)
	}
	if strings.HasPrefix(key, "bounce-") {
		for i, code := range codes {
			if code == mail.Failed {
				codes[i] = mail.Removed
			}
		}
	}
	list := fmt.Sprintf("%s %d %s", key, n, mail.Codes(codes))
	c.mark(append(lines, "S "+list)...)
	ids, err := c.store.Commit(context.Background(), b)
	if errors.Is(err, wal.ErrUsed) || errors.Is(err, wal.ErrSettled) {
		d.Release() // an operator has removed it
		return nil
	}
	if err != nil {
		return fmt.Errorf("settle message %s: %w", key, err)
	}
	done := []string{"T " + list}
	for i, bounce := range bounces {
		done = append(done, fmt.Sprintf("A %s %d", bounce, ids[i]))
	}
	c.mark(done...)
	return nil
}
