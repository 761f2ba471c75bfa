// Command evidence is the long run: it crashes the store every way there is and writes the
// table of docs/evidence.md. From the root of the repository:
//
//	go -C torture run ./evidence              all of it: some hours on two cores
//	go -C torture run ./evidence --share 0.1  a tenth of it
//	go -C torture run ./evidence --for 30m    as much of it as fits
//
// It needs root, FUSE and loop devices. It exits with 1 on a finding.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

func main() {
	share := flag.Float64("share", 1, "how much of the full run, above 0")
	limit := flag.Duration("for", 24*time.Hour, "when to stop what is not done by then")
	jobs := flag.Int("jobs", 2, "how many rows at a time")
	disks := flag.Int("disks", 2, "how many disks each row of torture has at a time")
	only := flag.String("only", "", "only rows whose method, file system or companion contains this")
	seed := flag.Uint64("seed", 1, "seed of the first row; each has one of its own")
	out := flag.String("out", "../docs/evidence.md", "the file whose table is written")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := run(ctx, *share, *jobs, *disks, *only, *seed, *out); err != nil {
		fmt.Fprintln(os.Stderr, "evidence:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, share float64, jobs, disks int, only string, seed uint64, out string) error {
	bin, err := os.MkdirTemp("", "evidence-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	for _, b := range []struct{ dir, pkg, name string }{{".", ".", "torture"}, {"..", "./cmd/walctl", "walctl"}} {
		c := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(bin, b.name), b.pkg)
		c.Dir = b.dir
		if text, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", b.name, err, text)
		}
	}
	of := commit()
	var chosen []*row
	for i, r := range rows(share) {
		r.Seed = seed + uint64(i)
		if only == "" || strings.Contains(r.Method+" "+r.FileSystem+" "+r.with, only) {
			chosen = append(chosen, r)
		}
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, max(jobs, 1))
		bad   []string
	)
	for _, r := range chosen {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			err := r.measure(ctx, bin, disks)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				bad = append(bad, fmt.Sprintf("%s: %v", r.command(), err))
			}
			if err := write(out, of, chosen); err != nil {
				bad = append(bad, err.Error())
			}
		})
	}
	wg.Wait()
	if len(bad) > 0 {
		return fmt.Errorf("%s", strings.Join(bad, "\n"))
	}
	return nil
}

// row is a line of the table.
type row struct {
	Method     string
	FileSystem string
	Crashes    int
	Lost       int
	Invented   int
	Repeated   int
	Silent     int
	Refused    int
	Announced  int
	InWindow   int `json:"in_window"`
	Seed       uint64

	count   int
	with    string // companions of the drill
	control bool   // it must find something
	done    bool
}

// rows are the full run, or a share of it.
func rows(share float64) []*row {
	n := func(full int) int { return max(1, int(float64(full)*share)) }
	var all []*row
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		all = append(all, &row{Method: "power cut", FileSystem: fs, count: n(10_000)})
	}
	for _, fs := range []string{"ext4", "xfs"} {
		all = append(all, &row{Method: "shutdown", FileSystem: fs, count: n(4_000)})
	}
	for _, with := range []string{"", "compaction", "fulldisk", "slowdisk"} {
		all = append(all, &row{Method: "SIGKILL", with: with, count: n(2_500)})
	}
	const control = 100 // whatever the share: a few may go well
	return append(all,
		&row{Method: "power cut", FileSystem: "ext4", count: control, control: true},
		&row{Method: "shutdown", FileSystem: "ext4", count: control, control: true})
}

// messagesPerKill is enough of a load between two kills of a drill.
const messagesPerKill = 20

func (r *row) args() []string {
	seed := fmt.Sprint(r.Seed)
	if r.Method == "SIGKILL" {
		a := []string{"drill", "--kills", fmt.Sprint(r.count), "--messages", fmt.Sprint(messagesPerKill * r.count), "--seed", seed}
		if r.with != "" {
			a = append(a, "--with", r.with)
		}
		return a
	}
	flag := "--crashes"
	if r.Method == "shutdown" {
		flag = "--cuts"
	}
	a := []string{"--fs", r.FileSystem, flag, fmt.Sprint(r.count), "--seed", seed}
	if r.control {
		a = append(a, "--canary")
	}
	return a
}

// command is how a reader runs the row again.
func (r *row) command() string {
	if r.Method == "SIGKILL" {
		return "go run ./cmd/walctl " + strings.Join(r.args(), " ")
	}
	return "go -C torture run . " + strings.Join(r.args(), " ")
}

// measure runs the row.
func (r *row) measure(ctx context.Context, bin string, disks int) error {
	name, more := "torture", []string{"--json", "--jobs", fmt.Sprint(disks)}
	if r.Method == "SIGKILL" {
		name, more = "walctl", more[:1]
	}
	c := exec.CommandContext(ctx, filepath.Join(bin, name), append(r.args(), more...)...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) } // it says how far it came
	c.WaitDelay = 5 * time.Minute
	c.Stderr = os.Stderr
	out, err := c.Output()
	if len(bytes.TrimSpace(out)) == 0 {
		return fmt.Errorf("no figures: %w", err)
	}
	if name == "walctl" {
		err = r.readDrill(out)
	} else {
		err = r.readTorture(out)
	}
	if err != nil {
		return err
	}
	r.done = true
	found := r.Lost + r.Invented + r.Repeated + r.Silent + r.Refused
	switch {
	case r.control && found == 0:
		return fmt.Errorf("the control found nothing")
	case !r.control && found > 0:
		return fmt.Errorf("%d findings", found)
	}
	return nil
}

func (r *row) readTorture(out []byte) error {
	var t struct {
		row
		FileSystem string `json:"file_system"`
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return fmt.Errorf("read the figures: %w", err)
	}
	r.Crashes, r.Announced, r.InWindow = t.Crashes, t.Announced, t.InWindow
	r.Lost, r.Invented, r.Repeated, r.Silent, r.Refused = t.Lost, t.Invented, t.Repeated, t.Silent, t.Refused
	return nil
}

func (r *row) readDrill(out []byte) error {
	var t struct {
		Kills, Lost, Duplicated int
		InDoubt                 int `json:"in_doubt"`
		Verify                  string
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return fmt.Errorf("read the figures: %w", err)
	}
	r.FileSystem = fileSystem()
	r.Crashes, r.Lost, r.Repeated, r.Announced = t.Kills, t.Lost, t.Duplicated, t.InDoubt
	if t.Verify != "ok" {
		r.Silent = 1
	}
	return nil
}
