package mailqtest

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutants are rules that the reference engine can be told to break, and the
// subtest that must notice.
var mutants = []struct{ bug, subtest string }{
	{"takes an ID twice", "ids/a reserved ID is refused twice"},
	{"repeats IDs after a crash", "ids/NewID never repeats after a crash"},
	{"keeps the caller's slices", "enqueue/the caller's slices are his again"},
	{"shows another's body", "enqueue/bodies of all sizes"},
	{"shows a settled body", "body/ErrSettled after the settle"},
	{"hands out early", "settle/Deferred is not handed out before its time"},
	{"leaves the context of a claim open", "settle/the context ends with the claim"},
	{"gives a token per claim", "settle/the token is the message's"},
	{"hands out a used recipient again", "settle/the used-marks of a delivery"},
	{"marks a used recipient again", "used/a batch that settles it is ErrUsed, bounce and all"},
	{"forgets a batch's bounce", "batch/a settle with its bounce"},
	{"applies half a bad batch", "refused/messages"},
	{"drops an edit of a claimed recipient", "batch/an edit of a claimed recipient"},
	{"takes any queue name", "refused/names of queues"},
	{"defers until no time", "refused/a deferral without a time"},
	{"goes to the back after Release", "order/after Release"},
	{"ignores InFlight", "consumers/InFlight bounds what is out"},
	{"is not fair", "consumers/a busy queue does not starve another"},
	{"hands out a claimed recipient", "consumers/two never hold the same recipient"},
	{"loses a claim whose wait has ended", "consumers/Next with a context that has ended"},
	{"ignores a filter", "list/a filter for doubt"},
	{"counts a claim as pending too", "stats/the identity after every step"},
	{"forgets on reopen", "reopen/the state is what it was"},
	{"forgets deferrals on reopen", "reopen/the state is what it was"},
	{"forgets counts on reopen", "stats/totals over the life of the store"},
	{"loses the in-doubt mark", "doubt/an unsettled claim after a crash"},
	{"starts what nobody started", "doubt/ManualStart and no Start"},
	{"serves Start twice as two attempts", "doubt/Start where a claim is one"},
	{"answers doubt with a deferral", "doubt/a deferral does not answer it"},
	{"leaves a goroutine", "close/twice is nil"},
	{"does not wait in Shutdown", "shutdown/ends intake and claims, and waits for what is out"},
	{"refuses a bounce in Shutdown", "shutdown/a settle passes with its bounce"},
	{"flushes every queue", "schedule/Flush makes a queue due"},
	{"ignores priority", "schedule/higher priority first"},
	{"starves a low priority", "schedule/lower priority does not starve"},
	{"expires again what was put off", "schedule/a deferral after expiry holds"},
	{"does not say that it is expired", "schedule/an expired message is handed out as such"},
	{"drops an edit of a claimed recipient", "holds/an edit of a claimed one holds it when it comes back"},
	{"takes mail for a suspended queue", "queues/a suspended queue takes nothing"},
	{"forgets the keys of the dead", "keys/also after the message is used, and reopening"},
	{"forgets a replacement", "replace/a recipient by others"},
	{"takes a body twice", "stage/taken once"},
	{"ignores Abort", "stage/aborted"},
	{"keeps the caller's slices", "staged/the caller's bytes are his again"},
	{"does not read back what came last", "staged/read back while it is written"},
	{"takes another store's body", "staged/of another store"},
	{"takes half a body", "staged/a Write that failed is final"},
	{"leaves staged bodies open", "staged/after Close"},
	{"leaves staged bodies open", "staged/while the store shuts down"},
	{"counts what was staged for ever", "staged/Stats counts them"},
	{"forgets a batch's bounce", "staged/a settle with a staged bounce"},
	{"ignores Limit", "groups/Limit"},

	// The random histories must find on their own what they are there for.
	{"hands out a used recipient again", "model/a random history against a map"},
	{"forgets a batch's bounce", "model/a random history against a map"},
	{"loses the in-doubt mark", "model/a random history against a map"},
	{"forgets on reopen", "model/a random history against a map"},
	{"hands out a claimed recipient", "model/a random history against a map"},
	{"applies half a bad batch", "model/a random history against a map"},
	{"hands out a claimed recipient", "concurrency/every recipient ends once, whatever happens"},
	{"forgets a batch's bounce", "concurrency/every recipient ends once, whatever happens"},
}

const mutantEnv = "MAILQTEST_MUTANT"

// TestMutant is what TestMutants runs in another process.
func TestMutant(t *testing.T) {
	bug := os.Getenv(mutantEnv)
	if bug == "" {
		t.Skip("TestMutants runs this in a process of its own, with " + mutantEnv + " set")
	}
	caps := refCaps
	caps.Patience = time.Second
	Run(t, refOpen(bug), caps)
}

// TestMutants fails if the suite lets an engine pass that breaks the contract.
// Each mutant runs in a process of its own, where its failing tests do no harm.
func TestMutants(t *testing.T) {
	if os.Getenv(mutantEnv) != "" {
		t.Skip("this is a mutant")
	}
	for _, m := range mutants {
		t.Run(m.bug+"/"+m.subtest, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			name := strings.ReplaceAll("TestMutant/"+m.subtest, " ", "_")
			run := "^" + strings.ReplaceAll(regexp.QuoteMeta(name), "/", "$/^") + "$"
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run="+run, "-test.v")
			cmd.Env = append(os.Environ(), mutantEnv+"="+m.bug)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: "+name+" ") {
				t.Errorf("the subtest lets an engine pass that %s: %v\n%s", m.bug, err, out)
			}
		})
	}
}
