package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// bar is the progress on a terminal; elsewhere it writes nothing.
type bar struct {
	name string

	mu sync.Mutex
	w  io.Writer // nil: no terminal, or no longer shown
}

func newBar(w io.Writer, name string) *bar {
	b := &bar{name: name}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b.w = w
	}
	return b
}

const barWidth = 24

// show draws how much is done, from 0 to 1, and what there is to say.
func (b *bar) show(done float64, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w == nil {
		return
	}
	full := int(min(max(done, 0), 1) * barWidth)
	fmt.Fprintf(b.w, "\r\x1b[K%-7s [%s%s] %3.0f%%  %s", b.name, strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), done*100,
		fmt.Sprintf(format, args...))
}

// end takes the bar away, for good.
func (b *bar) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w != nil {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
	b.w = nil
}
