package main

import (
	"sync"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// joinedMax bounds how many queues are remembered to be in their host's group.
const joinedMax = 10_000

// sites knows which queues go to one host, and which hosts are down. The store
// schedules by it: a group is a host. All of it is in memory.
type sites struct {
	cfg      config
	consumer mailq.Consumer

	mu     sync.Mutex
	joined map[string]bool    // queues
	down   map[string]*outage // by host
}

// outage is a host that takes no mail at present.
type outage struct {
	failures int // in a row
	until    time.Time
	reply    string // the last
}

func newSites(cfg config, c mailq.Consumer) *sites {
	for host, n := range cfg.hostLimits {
		c.Limit(host, n)
	}
	return &sites{cfg: cfg, consumer: c, joined: make(map[string]bool), down: make(map[string]*outage)}
}

// join puts a queue into the group of its host, and reports whether it was there. If
// not, what was claimed of it may be more than the host's limit or its pause
// allow: let it go.
//
// So the relay learns of a queue by its first claim, and can forget as it likes.
func (s *sites) join(queue string) bool {
	host := s.cfg.hostFor(queue)
	if host == "" {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.joined[queue] {
		return true
	}
	if len(s.joined) >= joinedMax { // names of domains that nobody may ask for again
		for q := range s.joined {
			s.consumer.SetGroup(q, "")
		}
		clear(s.joined)
	}
	s.consumer.SetGroup(queue, host)
	s.joined[queue] = true
	return false
}

// failed notes that a host could not be talked to. All that waits for it waits until
// it is asked again, longer each time, without a record for any message.
func (s *sites) failed(host, reply string) {
	if host == "" {
		return // it has no host
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.down[host]
	if o == nil {
		o = &outage{}
		s.down[host] = o
	}
	o.reply = reply
	now := time.Now()
	if now.Before(o.until) {
		return // known: this attempt had begun before
	}
	o.until = now.Add(backoff(s.cfg.retryBase, s.cfg.retryMax, o.failures))
	o.failures++
	s.consumer.Pause(host, o.until)
}

// reached notes that a host could be talked to.
func (s *sites) reached(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down[host] != nil {
		delete(s.down, host)
		s.consumer.Pause(host, time.Time{})
	}
}

// lastReply is why a host takes no mail, for what is told to senders.
func (s *sites) lastReply(host string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.down[host]; o != nil {
		return o.reply
	}
	return ""
}

// retry has every host asked again now.
func (s *sites) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for host, o := range s.down {
		o.until = time.Time{}
		s.consumer.Pause(host, time.Time{})
	}
}
