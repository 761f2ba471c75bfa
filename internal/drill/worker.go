package drill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// worker is one delivery agent of the core: a claim loop with a connection of
// its own.
type worker struct {
	*core
	consumer mailq.Consumer
	manual   bool // it says itself when a delivery starts
	conn     *client
	from     int // tells workers apart
	count    int // deliveries
}

// perConnection is how many messages of one queue a worker asks for while the
// connection is open.
const perConnection = 10

func (w *worker) run() error {
	defer func() {
		if w.conn != nil {
			w.conn.close()
		}
	}()
	for {
		d, err := w.consumer.Next(context.Background())
		if err != nil {
			return fmt.Errorf("claim: %w", err)
		}
		stamp := w.rep.next()
		for n := 1; ; n++ {
			if err := w.deliver(d, stamp); err != nil {
				return err
			}
			if n == perConnection {
				break
			}
			more, ok := w.consumer.TryNext(d.Queue)
			if !ok {
				break
			}
			d, stamp = more, w.rep.next()
		}
	}
}

// deliver hands over and settles.
func (w *worker) deliver(d *mailq.Delivery, stamp uint64) error {
	k, err := parseEnvelope(d.Envelope)
	if err != nil {
		return err
	}
	if len(d.Recipients) == 0 {
		return fmt.Errorf("message %s came without recipients", k)
	}
	w.count++
	if (w.count+w.from)%199 == 0 {
		d.Release() // a worker may change its mind
		return nil
	}
	if w.conn == nil {
		if w.conn, err = dial(w.Socket, w.Life); err != nil {
			return fmt.Errorf("connect to the receiving store: %w", err)
		}
	}
	if w.manual {
		if err := d.Start(context.Background()); err != nil {
			return w.settled(fmt.Errorf("start message %s: %w", k, err))
		}
	}
	answers, err := w.conn.handOver(k, stamp, d)
	var bad *bodyError
	if errors.As(err, &bad) {
		return w.settled(fmt.Errorf("message %s: %w", k, err))
	}
	if err != nil {
		w.conn.close()
		w.conn = nil
		if err := d.SettleAll(context.Background(), mailq.Uncertain); err != nil {
			return fmt.Errorf("settle message %s as uncertain: %w", k, err)
		}
		return nil
	}
	return w.settle(k, d, answers)
}

// settled turns the complaint about a delivery that a closing store has ended
// into that close.
func (w *worker) settled(err error) error {
	if errors.Is(err, mailq.ErrSettled) && w.store.NewID() == 0 {
		return mailq.ErrClosed
	}
	return err
}

// settle commits the outcomes, with the bounces in the same batch, and reports.
func (w *worker) settle(k Key, d *mailq.Delivery, answers []Answer) error {
	ctx := context.Background()
	var (
		outcomes          []mailq.Outcome
		delivered, failed []int
	)
	later := mailq.Outcome{
		Result: mailq.Deferred, Until: time.Now().Add(time.Duration(20+int(k.Serial()%7)*20) * time.Millisecond), Note: []byte("450 not now"),
	}
	for i, s := range d.Recipients {
		o := later
		switch answers[i] {
		case Take:
			o = mailq.Outcome{Result: mailq.Delivered}
			delivered = append(delivered, s.Index)
		case Refuse:
			o = mailq.Outcome{Result: mailq.Failed}
			failed = append(failed, s.Index)
		}
		o.Recipient = s.Index
		outcomes = append(outcomes, o)
	}
	var err error
	switch {
	case len(failed) > 0:
		err = w.bounce(ctx, k, d, outcomes, failed)
		if errors.Is(err, mailq.ErrFull) { // no room for bounces: the refused wait
			for i := range outcomes {
				if outcomes[i].Result == mailq.Failed {
					later.Recipient = outcomes[i].Recipient
					outcomes[i] = later
				}
			}
			failed = nil
			err = d.Settle(ctx, outcomes)
		}
	case len(delivered) == len(outcomes):
		err = d.SettleAll(ctx, mailq.Delivered)
	case w.count%2 == 0:
		_, err = w.store.Submit(mailq.Batch{Settle: []mailq.Settlement{{Delivery: d, Outcomes: outcomes}}}).Wait(ctx)
	default:
		err = d.Settle(ctx, outcomes)
	}
	if err != nil {
		return fmt.Errorf("settle message %s: %w", k, err)
	}
	said := ""
	for _, i := range failed {
		said += acceptLine(k.Bounce(i))
	}
	seq := w.rep.next()
	said += settleLine(k, seq, mailq.Delivered, delivered) + settleLine(k, seq, mailq.Failed, failed)
	if said != "" {
		w.rep.say(said)
	}
	return nil
}

// bounce commits the outcomes and a bounce for each recipient that failed.
func (w *worker) bounce(ctx context.Context, k Key, d *mailq.Delivery, outcomes []mailq.Outcome, failed []int) error {
	b := mailq.Batch{Settle: []mailq.Settlement{{Delivery: d, Outcomes: outcomes}}}
	for _, i := range failed {
		m := w.load.Bounce(k, i)
		w.rep.say(intendLine(m))
		b.Enqueue = append(b.Enqueue, m.Message)
	}
	_, err := w.store.Commit(ctx, b)
	return err
}
