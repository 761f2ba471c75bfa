package system

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// killEnv makes the test binary the process that is killed: "system<tab>directory".
const killEnv = "MTAWAL_BENCH_KILL"

func TestMain(m *testing.M) {
	if v := os.Getenv(killEnv); v != "" {
		name, dir, _ := strings.Cut(v, "\t")
		if err := toKill(name, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func queues() (list []Spec) {
	for _, s := range All() {
		if !s.Floor {
			list = append(list, s)
		}
	}
	return list
}

// What the load of the tests does: of messages 0 to 59 every fourth has three
// recipients. Ten recipients are used, then, where the system can, two are deferred.
const (
	testMessages = 60
	testUsed     = 10
	testDeferred = 2
)

func testBody(i int) []byte {
	b := make([]byte, 300+i*37)
	_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(b)
	binary.LittleEndian.PutUint32(b, uint32(i))
	return b
}

func testRecipients(i int) int {
	if i%4 == 3 {
		return 3
	}
	return 1
}

// testLoad returns how many recipients of each message are left.
func testLoad(q Queue) (left map[int]int, err error) {
	left = make(map[int]int)
	for i := range testMessages {
		left[i] = testRecipients(i)
		if err := q.Enqueue(Message{Body: testBody(i), Recipients: left[i]}); err != nil {
			return nil, err
		}
	}
	take := func() (Job, int, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		j, err := q.Claim(ctx)
		if err != nil {
			return nil, 0, err
		}
		i := -1
		err = j.Read(func(b []byte) { i = int(binary.LittleEndian.Uint32(b)) })
		return j, i, err
	}
	for range testUsed {
		j, i, err := take()
		if err != nil {
			return nil, err
		}
		if err := j.Used(); err != nil {
			return nil, err
		}
		if left[i]--; left[i] == 0 {
			delete(left, i)
		}
	}
	for range testDeferred {
		j, _, err := take()
		if err != nil {
			return nil, err
		}
		if err := j.Defer(time.Now()); err != nil && !errors.Is(err, ErrUnable) {
			return nil, err
		}
	}
	return left, nil
}

// holds checks that q holds exactly what is left, and uses it.
func holds(t *testing.T, q Queue, left map[int]int) {
	t.Helper()
	n := 0
	for _, r := range left {
		n += r
	}
	if got := q.Pending(); got != n {
		t.Errorf("%d recipients are pending, want %d", got, n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got := make(map[int]int)
	for range n {
		j, err := q.Claim(ctx)
		if err != nil {
			t.Fatal(err)
		}
		err = j.Read(func(b []byte) {
			i := int(binary.LittleEndian.Uint32(b))
			if string(b) != string(testBody(i)) {
				t.Errorf("body %d is another", i)
			}
			got[i]++
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Used(); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(left) {
		t.Errorf("left are %v, want %v", got, left)
	}
	if n := q.Pending(); n != 0 {
		t.Errorf("%d recipients are pending after the last", n)
	}
}

func openQueue(t *testing.T, s Spec, dir string) Queue {
	t.Helper()
	sys, err := s.Open(dir, Options{Producers: 4})
	if err != nil {
		t.Fatal(err)
	}
	return sys.(Queue)
}

// TestReopen: what was acknowledged is there after Close, no more and no less, and after Clear
// nothing is.
func TestReopen(t *testing.T) {
	for _, s := range queues() {
		t.Run(s.Name, func(t *testing.T) {
			dir := t.TempDir()
			q := openQueue(t, s, dir)
			left, err := testLoad(q)
			if err != nil {
				t.Fatal(err)
			}
			reopen := func() {
				t.Helper()
				if err := q.Close(); err != nil {
					t.Fatal(err)
				}
				q = openQueue(t, s, dir)
			}
			if s.Name == jetStream {
				// What a consumer has out comes back when it is asked for, an hour later.
				// It is not lost: TestKilled counts it.
				_ = left
			} else {
				reopen()
				holds(t, q, left)
			}
			var fill [][]byte
			for i := range 20 {
				fill = append(fill, testBody(i))
			}
			if err := q.(Filler).Fill(fill); err != nil {
				t.Fatal(err)
			}
			if err := q.Clear(); err != nil {
				t.Fatal(err)
			}
			if n := q.Pending(); n != 0 {
				t.Errorf("%d recipients are pending after Clear", n)
			}
			reopen()
			if n := q.Pending(); n != 0 {
				t.Errorf("%d recipients are pending after Clear and reopening", n)
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestKilled: the same after SIGKILL.
func TestKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range queues() {
		t.Run(s.Name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), killEnv+"="+s.Name+"\t"+dir)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			left := make(map[int]int)
			lines := bufio.NewScanner(out)
			for lines.Scan() && lines.Text() != "done" {
				var i, n int
				if _, err := fmt.Sscan(lines.Text(), &i, &n); err != nil {
					t.Fatal(err)
				}
				left[i] = n
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed
			if len(left) == 0 {
				t.Fatal("the process did nothing")
			}
			q := openQueue(t, s, dir)
			if s.Name == jetStream {
				n := 0
				for _, r := range left {
					n += r
				}
				if got := q.Pending(); got != n {
					t.Errorf("%d recipients are pending, want %d", got, n)
				}
			} else {
				holds(t, q, left)
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// toKill does the load, says what is left, and waits to be killed.
func toKill(name, dir string) error {
	for _, s := range queues() {
		if s.Name != name {
			continue
		}
		sys, err := s.Open(dir, Options{Producers: 4})
		if err != nil {
			return err
		}
		left, err := testLoad(sys.(Queue))
		if err != nil {
			return err
		}
		for i, n := range left {
			fmt.Println(i, n)
		}
		fmt.Println("done")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil
	}
	return fmt.Errorf("no system %q", name)
}

// TestMail: the sizes of mail follow their table.
func TestMail(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const draws = 200_000
	small, sum := 0, 0
	for range draws {
		n := Mail(rnd)
		if n < mailMin || n > SizeMax {
			t.Fatalf("a mail of %d bytes", n)
		}
		if n < 8<<10 {
			small++
		}
		sum += n
	}
	if p := float64(small) / draws; p < 0.66 || p > 0.69 {
		t.Errorf("%v are below 8 KiB, want 0.676", p)
	}
	t.Logf("mean %d bytes", sum/draws)
}

// TestGrouper: everybody gets the error of the commit that its items were in, and each
// item is committed once.
func TestGrouper(t *testing.T) {
	seen := make(map[int]int)
	bad := errors.New("bad")
	g := grouper[int]{commit: func(items []int) error {
		for _, i := range items {
			seen[i]++ // one commit at a time: the race detector watches
		}
		if items[0] < 0 {
			return bad
		}
		return nil
	}}
	errs := make(chan error)
	for i := range 200 {
		go func() { errs <- g.do(i) }()
	}
	for range 200 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := g.do(-1); !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
	if len(seen) != 201 {
		t.Errorf("%d items were committed, want 201", len(seen))
	}
}

const jetStream = "nats jetstream"
