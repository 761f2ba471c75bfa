// Package mailqtest is the contract of [mailq.Store] as tests. An engine runs
// them from a test of its own:
//
//	func TestConformance(t *testing.T) {
//		mailqtest.Run(t, func(dir string) (mailq.Store, error) {
//			return engine.Open(dir, engine.Options{})
//		}, mailqtest.Caps{InDoubt: true})
//	}
//
// Every subtest works on a fresh directory and covers one sentence of the
// documentation of package mailq. After each, the suite checks the identity of
// [mailq.Stats], that Stats, Entries and Queues agree, that Close returns nil,
// and that no goroutine is left.
package mailqtest

import (
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// OpenFunc opens the store in a directory, which exists and is empty the first
// time. Called again after Close (or Caps.Crash), it reopens what is there.
// Small limits of the engine's own (segments of a few hundred KiB, say) make
// the suite quicker and harder to pass.
type OpenFunc func(dir string) (mailq.Store, error)

// Caps says what the engine under test can do. A subtest that needs more is
// skipped, and says so. The zero value asks for the core alone: enqueue, commit,
// claim, settle, defer, mark used, list, count, reopen, shut down.
type Caps struct {
	InDoubt     bool // what was started and not settled comes back in doubt, Uncertain, ManualStart
	Edits       bool // Batch.Edit with used-marks and Deferred
	NotBefore   bool // Recipient.NotBefore
	Flush       bool // Store.Flush
	Holds       bool // Held and Released
	QueueStates bool // Store.SetQueue: held and suspended queues, doubt policies
	Keys        bool // Message.Key
	Expiry      bool // Message.ExpiresAt
	Replacement bool // Replaced and Outcome.Replace
	Staging     bool // Store.Stage and Message.Staged
	Priority    bool // Message.Priority
	Groups      bool // Consumer.SetGroup, Limit and Pause

	// Crash ends the store without Close, as if its process had been killed,
	// and returns the directory to open next: dir, or a copy of it that was
	// taken while the store stood there. It sees to it that no goroutine of
	// the old store is left. nil: the engine can't be crashed in a test.
	Crash func(t *testing.T, dir string, s mailq.Store) string

	// MaxMessage is the largest body that the store takes, in bytes, and
	// MaxRecipients the largest number of recipients of a message, as OpenFunc
	// sets them; 0: not tested.
	MaxMessage    int64
	MaxRecipients int

	// Patience bounds each subtest's wait for what must come; 0: 30 s.
	Patience time.Duration
	// Seed of the randomized subtests; 0: a fixed one.
	Seed uint64
}

// need is something that a subtest needs and an engine may lack.
type need struct {
	cap string // field of Caps
	has func(Caps) bool
}

var (
	doubt       = need{"InDoubt", func(c Caps) bool { return c.InDoubt }}
	edits       = need{"Edits", func(c Caps) bool { return c.Edits }}
	notBefore   = need{"NotBefore", func(c Caps) bool { return c.NotBefore }}
	flush       = need{"Flush", func(c Caps) bool { return c.Flush }}
	holds       = need{"Holds", func(c Caps) bool { return c.Holds }}
	queueStates = need{"QueueStates", func(c Caps) bool { return c.QueueStates }}
	keys        = need{"Keys", func(c Caps) bool { return c.Keys }}
	expiry      = need{"Expiry", func(c Caps) bool { return c.Expiry }}
	replacement = need{"Replacement", func(c Caps) bool { return c.Replacement }}
	staging     = need{"Staging", func(c Caps) bool { return c.Staging }}
	priority    = need{"Priority", func(c Caps) bool { return c.Priority }}
	groups      = need{"Groups", func(c Caps) bool { return c.Groups }}
	crash       = need{"Crash", func(c Caps) bool { return c.Crash != nil }}
	maxMessage  = need{"MaxMessage", func(c Caps) bool { return c.MaxMessage > 0 }}
	maxRcpts    = need{"MaxRecipients", func(c Caps) bool { return c.MaxRecipients > 0 }}
)

// test is one subtest.
type test struct {
	name  string
	run   func(*env)
	needs []need
}

// subjects are all subtests, in the order in which a new engine can hope to
// pass them.
var subjects = []struct {
	name  string
	tests []test
}{
	{"ids", idTests},
	{"enqueue", enqueueTests},
	{"body", bodyTests},
	{"settle", settleTests},
	{"used", usedTests},
	{"batch", batchTests},
	{"refused", refusedTests},
	{"order", orderTests},
	{"consumers", consumerTests},
	{"list", listTests},
	{"stats", statsTests},
	{"reopen", reopenTests},
	{"doubt", doubtTests},
	{"close", closeTests},
	{"shutdown", shutdownTests},
	{"concurrency", concurrencyTests},
	{"schedule", scheduleTests},
	{"holds", holdTests},
	{"queues", queueStateTests},
	{"keys", keyTests},
	{"replace", replaceTests},
	{"stage", stageTests},
	{"staged", stagedTests},
	{"groups", groupTests},
	{"model", modelTests},
}

// Run runs the contract against the engine that open opens, one subtest for
// each sentence of it, grouped by subject.
func Run(t *testing.T, open OpenFunc, caps Caps) {
	if caps.Patience <= 0 {
		caps.Patience = 30 * time.Second
	}
	if caps.Seed == 0 {
		caps.Seed = 0x5eed
	}
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) {
			for _, tt := range s.tests {
				t.Run(tt.name, func(t *testing.T) {
					for _, n := range tt.needs {
						if !n.has(caps) {
							t.Skipf("the engine has no %s yet (mailqtest.Caps.%s)", n.cap, n.cap)
						}
					}
					e := newEnv(t, open, caps)
					tt.run(e)
				})
			}
		})
	}
}
