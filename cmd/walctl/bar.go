package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mtawal/mtawal/internal/drill"
	"golang.org/x/term"
)

// bar is the progress on a terminal; elsewhere it writes nothing.
type bar struct {
	w     io.Writer // nil: no terminal
	name  string
	kills int
	begin time.Time
}

func newBar(w io.Writer, name string, c drill.Config) *bar {
	b := &bar{name: name, kills: c.Kills, begin: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b.w = w
	}
	return b
}

const barWidth = 24

func (b *bar) show(p drill.Progress) {
	if b.w == nil {
		return
	}
	full := int(p.Done * barWidth)
	fmt.Fprintf(b.w, "\r\x1b[K%-7s [%s%s] %3.0f%%  %d accepted, %d waiting, %d/%d kills, %.0f s", b.name,
		strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), p.Done*100, p.Accepted, p.State.Backlog(), p.Kills, b.kills,
		time.Since(b.begin).Seconds())
}

// clear takes the bar away.
func (b *bar) clear() {
	if b.w != nil {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
