package wal

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
)

// entriesOf lists recipients by index.
func entriesOf(t *testing.T, s *Store, f Filter) map[int]Entry {
	t.Helper()
	list := make(map[int]Entry)
	for e, err := range s.Entries(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		list[e.Recipient] = e
	}
	return list
}

// comesIn claims what one queue hands out and fails unless it is this of a message, of each
// recipient whether it is in doubt. It releases what was not started.
func comesIn(t *testing.T, s *Store, queue string, id ID, want map[int]bool) {
	t.Helper()
	c := must(s.Consumer(ConsumerOptions{Queues: []string{queue}, ManualStart: true}))(t)
	defer c.Close()
	got := make(map[int]bool)
	for {
		d, ok := c.TryNext(queue)
		if !ok {
			break
		}
		defer d.Release()
		for _, r := range d.Recipients {
			if d.ID == id {
				got[r.Index] = r.InDoubt
			} else if r.InDoubt {
				t.Errorf("recipient %d of %v is in doubt", r.Index, d.ID)
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("queue %s hands out %v, want %v", queue, got, want)
	}
}

// Of a delivery that was under way at a kill or a power cut exactly those recipients are in
// doubt that had been started, each as its queue wants it, and Entries lists them. It stays so
// through another crash and a checkpoint, until they are settled.
func TestDoubtByPolicy(t *testing.T) {
	crashes := map[string]func(fs *memdisk.FS){
		"kill": func(fs *memdisk.FS) { fs.Kill() },
		"power cut": func(fs *memdisk.FS) {
			time.Sleep(2 * markerAfter) // the attempts ride with the Marker
			fs.PowerCutWith(nothingMore)
		},
	}
	for name, crash := range crashes {
		for _, durable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, DurableStart %v", name, durable), func(t *testing.T) {
				scenario(t, func(t *testing.T) { doubtByPolicy(t, durable, crash) })
			})
		}
	}
	t.Run("power cut at once, DurableStart", func(t *testing.T) {
		scenario(t, func(t *testing.T) { doubtByPolicy(t, true, func(fs *memdisk.FS) { fs.PowerCutWith(nothingMore) }) })
	})
}

func doubtByPolicy(t *testing.T, durable bool, crash func(*memdisk.FS)) {
	fs := memdisk.New(memdisk.Config{})
	o := tiny(fs)
	o.DurableStart = durable
	s := started(t, o)
	set := func(q string, st QueueState) {
		if err := s.SetQueue(t.Context(), q, st); err != nil {
			t.Fatal(err)
		}
	}
	set("hold", QueueState{Doubt: mailq.HoldDoubt})
	set("defer", QueueState{Doubt: mailq.DeferDoubt, DoubtDelay: time.Hour})
	m := Message{Body: []byte("x")}
	for _, q := range []string{"redeliver", "hold", "defer"} {
		for range 3 {
			m.Recipients = append(m.Recipients, Recipient{Queue: q, Address: q})
		}
	}
	id := must(s.Enqueue(t.Context(), m))(t)
	must(s.Enqueue(t.Context(), m))(t) // nobody touches that one
	c := must(s.Consumer(ConsumerOptions{ManualStart: true}))(t)
	for i, q := range []string{"redeliver", "hold", "defer"} {
		d, ok := c.TryNext(q)
		if !ok || d.ID != id {
			t.Fatalf("claimed %v", d)
		}
		// The second is started, the third started and settled.
		if err := d.Start(t.Context(), 3*i+1, 3*i+2); err != nil {
			t.Fatal(err)
		}
		if err := d.Settle(t.Context(), []Outcome{{Recipient: 3*i + 2, Result: Delivered}}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	crash(fs)
	for round := range 3 {
		s = started(t, o)
		found := entriesOf(t, s, Filter{InDoubt: true})
		if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, []int{1, 4, 7}) || found[1].ID != id {
			t.Fatalf("round %d: in doubt are %v", round, found)
		}
		for i, want := range map[int]mailq.State{1: mailq.Pending, 4: mailq.OnHold, 7: mailq.InDeferral} {
			if e := found[i]; e.State != want || e.Attempts != 1 || want == mailq.InDeferral && e.NotBefore.Sub(began.Add(time.Hour)).Abs() > time.Minute {
				t.Errorf("round %d: %+v, want it %v", round, e, want)
			}
		}
		comesIn(t, s, "redeliver", id, map[int]bool{0: false, 1: true})
		comesIn(t, s, "hold", id, map[int]bool{3: false})
		comesIn(t, s, "defer", id, map[int]bool{6: false})
		if round == 1 {
			if err := s.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		crash(fs)
	}
	s = started(t, o)
	must(s.Commit(t.Context(), Batch{Edit: []Edit{{ID: id, Outcomes: []Outcome{{Recipient: 4, Result: Released}}}}}))(t)
	comesIn(t, s, "hold", id, map[int]bool{3: false, 4: true})
	time.Sleep(time.Hour)
	comesIn(t, s, "defer", id, map[int]bool{6: false, 7: true})
	for _, q := range []string{"redeliver", "hold", "defer"} {
		for range 2 {
			d, err := s.Claim(t.Context(), q)
			if err == nil {
				err = d.SettleAll(t.Context(), Delivered)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if st := s.Stats(); st.InDoubt != 0 || st.WorkQueueLength != 0 || st.Used.Delivered != 18 {
		t.Errorf("%+v", st)
	}
	ended(t, s)
}

// The same policies where the connection broke, or the worker let go: with no crash.
func TestDoubtLive(t *testing.T) {
	scenario(t, func(t *testing.T) {
		s := started(t, tiny(memdisk.New(memdisk.Config{})))
		want := map[mailq.DoubtPolicy]mailq.State{mailq.Redeliver: mailq.Pending, mailq.HoldDoubt: mailq.OnHold, mailq.DeferDoubt: mailq.InDeferral}
		for policy, state := range want {
			if err := s.SetQueue(t.Context(), "q", QueueState{Doubt: policy, DoubtDelay: time.Hour}); err != nil {
				t.Fatal(err)
			}
			for _, end := range []func(d *Delivery) error{
				func(d *Delivery) error { d.Release(); return nil },
				func(d *Delivery) error { return d.SettleAll(t.Context(), Uncertain) },
			} {
				posted(t, s, "x")
				d := taken(t, s)
				if err := end(d); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if e := entriesOf(t, s, Filter{InDoubt: true})[0]; e.State != state || e.Attempts != 1 {
					t.Errorf("policy %d: %+v", policy, e)
				}
				if err := s.MarkUsed(t.Context(), d.ID, All); err != nil {
					t.Fatal(err)
				}
			}
		}
		ended(t, s)
	})
}

// Options.Doubt is the policy of queues that have none, and leaves no queue behind:
// mistyped domains go with their mail.
func TestDoubtByDefault(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := tiny(fs)
		o.Doubt, o.DoubtDelay = mailq.DeferDoubt, time.Minute
		s := started(t, o)
		if err := s.SetQueue(t.Context(), "own", QueueState{Doubt: mailq.HoldDoubt}); err != nil {
			t.Fatal(err)
		}
		if err := s.SetQueue(t.Context(), "again", QueueState{Doubt: mailq.DeferDoubt}); err != nil {
			t.Fatal(err)
		}
		id := must(s.Enqueue(t.Context(), Message{Recipients: []Recipient{
			{Queue: "a", Address: "0"}, {Queue: "b", Address: "1"}, {Queue: "own", Address: "2"}, {Queue: "again", Address: "3"}}}))(t)
		at := time.Now()
		for _, q := range []string{"a", "b", "own", "again"} {
			d := must(s.Claim(t.Context(), q))(t)
			if q == "b" {
				if err := d.SettleAll(t.Context(), Uncertain); err != nil {
					t.Fatal(err)
				}
			}
		}
		fs.Kill()
		s = started(t, o)
		list := entriesOf(t, s, Filter{ID: id, InDoubt: true})
		for i, want := range []State{mailq.InDeferral, mailq.InDeferral, mailq.OnHold, mailq.Pending} {
			if e, ok := list[i]; !ok || e.State != want || i < 2 && !e.NotBefore.Equal(at.Add(time.Minute)) {
				t.Errorf("recipient %d is %+v, want it %v", i, e, want)
			}
		}
		if err := s.MarkUsed(t.Context(), id, mailq.All); err != nil {
			t.Fatal(err)
		}
		var left []string
		for q, err := range s.Queues(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			left = append(left, q.Name)
		}
		if got := fmt.Sprint(left); got != "[again own]" {
			t.Errorf("queues that are left: %v", got)
		}
		ended(t, s)
		o.Doubt = mailq.DeferDoubt + 1
		if _, err := Open(spool, o); err == nil {
			t.Error("opened with a policy that is none")
		}
	})
}
