package drill

import (
	"strings"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

// scene is a ledger with a message 1 of two recipients, intended.
type scene struct {
	*Ledger
	key  Key
	body Digest
	seq  uint64
	life int
}

func newScene() *scene {
	s := &scene{Ledger: NewLedger(), key: LoadKey(1), body: Sum([]byte("body")), life: 1}
	s.Intend(s.key, 2, s.body)
	return s
}

func (s *scene) stamp() Stamp {
	s.seq++
	return NewStamp(s.life, s.seq)
}

// give hands a recipient over; flags: d in doubt, n not stored, x altered.
func (s *scene) give(k Key, recipient int, flags string) {
	h := HandOver{Key: k, Recipient: recipient, Stamp: s.stamp(), Digest: s.body, Stored: true}
	h.InDoubt = strings.Contains(flags, "d")
	h.Stored = !strings.Contains(flags, "n")
	if strings.Contains(flags, "x") {
		h.Digest[0]++
	}
	s.HandOver(h)
}

func (s *scene) used(k Key, recipient int, r mailq.Result) { s.Settle(k, recipient, r, s.stamp()) }

func (s *scene) deliver(k Key, recipient int) {
	s.give(k, recipient, "")
	s.used(k, recipient, mailq.Delivered)
}

func (s *scene) kill() { s.life++; s.seq = 0 }

func TestAudit(t *testing.T) {
	both := Audit{Messages: 1, Recipients: 2, Delivered: 2}
	with := func(f func(*Audit)) Audit {
		a := both
		f(&a)
		return a
	}
	tests := []struct {
		name string
		play func(s *scene)
		want Audit
	}{
		{"all is delivered", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.deliver(s.key, 1)
		}, both},
		{"nothing arrives", func(s *scene) { s.Accept(s.key) }, Audit{Messages: 1, Recipients: 2, Lost: 2}},
		{"one is forgotten", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 1)
		}, Audit{Messages: 1, Recipients: 2, Delivered: 1, Lost: 1}},
		{"a mark without a delivery", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.used(s.key, 1, mailq.Delivered)
		}, Audit{Messages: 1, Recipients: 2, Delivered: 1, Lost: 1}},
		{"offered, and not kept", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "n")
		}, Audit{Messages: 1, Recipients: 2, Delivered: 1, Lost: 1}},
		{"deferred, then delivered", func(s *scene) {
			s.Accept(s.key)
			s.give(s.key, 0, "n")
			s.deliver(s.key, 1)
			s.deliver(s.key, 0)
		}, both},
		{"not acknowledged and gone", func(s *scene) { s.kill() }, Audit{Unknown: 1}},
		{"not acknowledged and there", func(s *scene) {
			s.kill()
			s.deliver(s.key, 0)
			s.deliver(s.key, 1)
		}, Audit{Unknown: 1, UnknownArrived: 1}},
		{"not acknowledged and there in part", func(s *scene) {
			s.kill()
			s.deliver(s.key, 0)
		}, Audit{Unknown: 1, UnknownArrived: 1, Lost: 1}},
		{"killed before the mark, announced", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "")
			s.kill()
			s.give(s.key, 1, "d")
			s.used(s.key, 1, mailq.Delivered)
		}, with(func(a *Audit) { a.InDoubt = 1 })},
		{"killed before the mark, not announced", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "")
			s.kill()
			s.give(s.key, 1, "")
			s.used(s.key, 1, mailq.Delivered)
		}, with(func(a *Audit) { a.Duplicated = 1 })},
		{"in doubt, and it was no repeat", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "n")
			s.kill()
			s.give(s.key, 1, "d")
		}, both},
		{"in doubt, deferred, then not announced", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "")
			s.give(s.key, 1, "dn")
			s.give(s.key, 1, "")
		}, with(func(a *Audit) { a.InDoubt, a.Duplicated = 1, 1 })},
		{"after the mark, in the same life", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.deliver(s.key, 1)
			s.deliver(s.key, 1)
		}, with(func(a *Audit) { a.Duplicated = 1 })},
		{"after the mark, announced all the same", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.deliver(s.key, 1)
			s.kill()
			s.give(s.key, 1, "d")
		}, with(func(a *Audit) { a.Duplicated = 1 })},
		{"after the mark, and refused this time", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.deliver(s.key, 1)
			s.kill()
			s.give(s.key, 1, "dn")
		}, with(func(a *Audit) { a.Duplicated = 1 })},
		{"twice at once", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "")
			s.give(s.key, 1, "")
			s.used(s.key, 1, mailq.Delivered)
		}, with(func(a *Audit) { a.Duplicated = 1 })},
		{"refused, with a bounce", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "n")
			b := s.key.Bounce(1)
			s.Intend(b, 1, s.body)
			s.used(s.key, 1, mailq.Failed)
			s.Accept(b)
			s.deliver(b, 0)
		}, with(func(a *Audit) { a.Bounced = 1 })},
		{"refused, the bounce is lost", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "n")
			b := s.key.Bounce(1)
			s.Intend(b, 1, s.body)
			s.used(s.key, 1, mailq.Failed)
			s.Accept(b)
		}, Audit{Messages: 1, Recipients: 2, Delivered: 1, Lost: 1}},
		{"refused, without a bounce", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "n")
			s.Intend(s.key.Bounce(1), 1, s.body)
			s.used(s.key, 1, mailq.Failed)
		}, Audit{Messages: 1, Recipients: 2, Delivered: 1, Lost: 1}},
		{"refused again, with a second bounce", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			b := s.key.Bounce(1)
			for range 2 {
				s.give(s.key, 1, "n")
				s.Intend(b, 1, s.body)
				s.Accept(b)
				s.give(b, 0, "")
				s.kill()
			}
		}, with(func(a *Audit) { a.Bounced, a.Duplicated = 1, 1 })},
		{"in doubt out of the blue", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "dn")
			s.give(s.key, 1, "d")
		}, with(func(a *Audit) { a.Unfounded = 1 })},
		{"altered on the way", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.give(s.key, 1, "x")
		}, Audit{Messages: 1, Recipients: 2, Delivered: 1, Lost: 1, Altered: 1}},
		{"out of nowhere", func(s *scene) {
			s.Accept(s.key)
			s.deliver(s.key, 0)
			s.deliver(s.key, 1)
			s.give(LoadKey(2), 0, "")
			s.give(s.key, 2, "")
		}, with(func(a *Audit) { a.Invented = 2 })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene()
			tt.play(s)
			got := s.Audit()
			wantClean := tt.want.Lost+tt.want.Duplicated+tt.want.Altered+tt.want.Invented == 0
			if got.Clean() != wantClean || (len(got.Findings) == 0) != wantClean {
				t.Errorf("Clean is %v, with findings %q", got.Clean(), got.Findings)
			}
			got.Findings = nil
			if !equalAudit(got, tt.want) {
				t.Errorf("audit is\n%+v, want\n%+v", got, tt.want)
			}
		})
	}
}

// equalAudit compares the figures.
func equalAudit(a, b Audit) bool {
	a.Findings, b.Findings = nil, nil
	type figures [12]int
	f := func(a Audit) figures {
		return figures{a.Messages, a.Recipients, a.Delivered, a.Bounced, a.Lost, a.Duplicated, a.InDoubt, a.Unknown, a.UnknownArrived, a.Altered, a.Invented, a.Unfounded}
	}
	return f(a) == f(b)
}

// The pipe may be read behind the sockets: the verdict is the same.
func TestAuditIgnoresTheOrderOfReading(t *testing.T) {
	l := NewLedger()
	k, d := LoadKey(9), Sum(nil)
	l.HandOver(HandOver{Key: k, Stamp: NewStamp(1, 30), Digest: d, Stored: true, InDoubt: true})
	l.HandOver(HandOver{Key: k, Stamp: NewStamp(1, 10), Digest: d, Stored: true})
	l.Settle(k, 0, mailq.Delivered, NewStamp(1, 20))
	l.Accept(k)
	l.Intend(k, 1, d)
	if a := l.Audit(); a.Duplicated != 1 || a.Invented != 0 || a.Lost != 0 || a.Delivered != 1 {
		t.Errorf("audit is %+v, want one repeat after the mark and nothing else", a)
	}
}

// What contradicts itself is a finding, and a flood of findings is bounded.
func TestAuditFindings(t *testing.T) {
	l := NewLedger()
	l.Intend(LoadKey(1), 1, Sum([]byte("a")))
	l.Intend(LoadKey(1), 1, Sum([]byte("b")))
	l.Settle(LoadKey(1), -1, mailq.Delivered, NewStamp(1, 1))
	l.HandOver(HandOver{Key: LoadKey(1), Recipient: 1 << 30})
	a := l.Audit()
	if len(a.Findings) != 3 || a.Clean() {
		t.Errorf("findings %q, want 3", a.Findings)
	}
	for n := range uint64(1000) {
		l.Intend(LoadKey(n+2), 1, Digest{})
		l.Accept(LoadKey(n + 2))
	}
	if a := l.Audit(); a.Lost != 1000 || len(a.Findings) != 3+FindingsMax {
		t.Errorf("%d lost and %d findings, want 1000 and %d", a.Lost, len(a.Findings), 3+FindingsMax)
	}
}

func TestKey(t *testing.T) {
	for _, k := range []Key{LoadKey(1), LoadKey(1 << 40), LoadKey(7).Bounce(0), LoadKey(7).Bounce(bouncesMax - 1)} {
		if got, err := ParseKey(k.String()); got != k || err != nil {
			t.Errorf("%v is read back as %v, %v", k, got, err)
		}
	}
	for _, s := range []string{"", "0", "x", "-1", "1.b", "1.b255", "1.b-1", "99999999999999999999", "1 2"} {
		if k, err := ParseKey(s); err == nil {
			t.Errorf("%q is read as %v", s, k)
		}
	}
}
