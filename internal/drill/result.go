package drill

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is what a drill found.
type Result struct {
	Store string
	Seed  uint64
	Kills int
	// KillsOpening is how many of them struck before the store was open.
	KillsOpening int
	Audit        Audit
	// WorkQueueLength is what the store said when nothing was left to deliver,
	// or at the end if it did not get that far.
	WorkQueueLength int64
	ReopenMax       time.Duration // the longest opening after a kill
	Elapsed         time.Duration // from the first start until the queues were drained
	Verify          string        // "ok" or the finding
	// Findings says what went wrong beside the audit: a core that died, hung or
	// would not stop.
	Findings []string
	// Stderr is the end of what the last core wrote there, if there are
	// findings.
	Stderr string
}

func (r *Result) find(text string) { r.Findings = append(r.Findings, text) }

// Clean reports whether the store kept all its promises.
func (r *Result) Clean() bool {
	return r.Audit.Clean() && r.WorkQueueLength == 0 && r.verdict() == "ok"
}

// verdict is the verification's, or where that has nothing to say, the first of
// the findings that no other field tells.
func (r *Result) verdict() string {
	switch {
	case r.Verify != "ok":
		return r.Verify
	case len(r.Findings) > 0:
		return r.Findings[0]
	case r.Audit.Invented > 0:
		return fmt.Sprintf("%d hand-overs of what nobody enqueued", r.Audit.Invented)
	case r.Audit.Altered > 0:
		return fmt.Sprintf("%d hand-overs of altered bodies", r.Audit.Altered)
	}
	for _, f := range r.Audit.Findings {
		if strings.HasPrefix(f, "odd: ") {
			return f
		}
	}
	return "ok"
}

// MarshalJSON writes the figures of a drill as one object.
func (r *Result) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Messages          int     `json:"messages"`
		Recipients        int     `json:"recipients"`
		Kills             int     `json:"kills"`
		Delivered         int     `json:"delivered"`
		Lost              int     `json:"lost"`
		Duplicated        int     `json:"duplicated"`
		InDoubt           int     `json:"in_doubt"`
		WorkQueueLength   int64   `json:"work_queue_length"`
		ReopenMSMax       float64 `json:"reopen_ms_max"`
		MessagesPerSecond float64 `json:"messages_per_second"`
		Verify            string  `json:"verify"`
		Seed              uint64  `json:"seed"`
	}{
		r.Audit.Messages, r.Audit.Recipients, r.Kills, r.Audit.Delivered, r.Audit.Lost, r.Audit.Duplicated, r.Audit.InDoubt,
		r.WorkQueueLength, r.reopenMS(), r.perSecond(), r.verdict(), r.Seed,
	})
}

func (r *Result) reopenMS() float64 {
	return math.Round(r.ReopenMax.Seconds()*10000) / 10
}

func (r *Result) perSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return math.Round(float64(r.Audit.Messages)/r.Elapsed.Seconds()*10) / 10
}

// WriteTable writes the results side by side.
func WriteTable(w io.Writer, results ...*Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(name string, cell func(r *Result) string) {
		fmt.Fprintf(t, "%s\t", name)
		for _, r := range results {
			fmt.Fprintf(t, "%s\t", Printable(cell(r)))
		}
		fmt.Fprintln(t)
	}
	count := func(f func(r *Result) int) func(r *Result) string {
		return func(r *Result) string { return strconv.Itoa(f(r)) }
	}
	row("store", func(r *Result) string { return r.Store })
	row("messages accepted", count(func(r *Result) int { return r.Audit.Messages }))
	row("recipients", count(func(r *Result) int { return r.Audit.Recipients }))
	row("kills", count(func(r *Result) int { return r.Kills }))
	row("of these while it opened", count(func(r *Result) int { return r.KillsOpening }))
	row("delivered", count(func(r *Result) int { return r.Audit.Delivered }))
	row("of these by a bounce", count(func(r *Result) int { return r.Audit.Bounced }))
	row("LOST", count(func(r *Result) int { return r.Audit.Lost }))
	row("DUPLICATED", count(func(r *Result) int { return r.Audit.Duplicated }))
	row("repeats announced as in doubt", count(func(r *Result) int { return r.Audit.InDoubt }))
	row("in doubt, and no repeat", count(func(r *Result) int { return r.Audit.Unfounded }))
	row("not acknowledged (arrived)", func(r *Result) string {
		return fmt.Sprintf("%d (%d)", r.Audit.Unknown, r.Audit.UnknownArrived)
	})
	row("Work Queue Length", func(r *Result) string { return strconv.FormatInt(r.WorkQueueLength, 10) })
	row("longest reopen, ms", func(r *Result) string { return fmt.Sprintf("%.1f", r.reopenMS()) })
	row("messages per second", func(r *Result) string { return fmt.Sprintf("%.0f", r.perSecond()) })
	row("verify", func(r *Result) string { return clip(r.verdict()) })
	row("seed", func(r *Result) string { return strconv.FormatUint(r.Seed, 10) })
	return t.Flush()
}

// Printable makes control characters of data visible, so that they do nothing
// to a terminal. Line ends go too.
func Printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}
