package drill

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
)

// receiver is the receiving store: it listens, answers as its policy says, and
// writes into the ledger what it is offered.
type receiver struct {
	ledger *Ledger
	policy Policy
	ln     net.Listener

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	over  bool
	wg    sync.WaitGroup // of the connections and the accept loop
	idle  *sync.Cond     // conns became empty
}

// newReceiver listens on a socket in the file system.
func newReceiver(socket string, l *Ledger, p Policy) (*receiver, error) {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("open the receiving store: %w", err)
	}
	r := &receiver{ledger: l, policy: p, ln: ln, conns: map[net.Conn]struct{}{}}
	r.idle = sync.NewCond(&r.mu)
	r.wg.Add(1)
	go r.accept()
	return r, nil
}

func (r *receiver) accept() {
	defer r.wg.Done()
	for {
		conn, err := r.ln.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				r.ledger.Note(fmt.Sprintf("the receiving store can't listen: %v", err))
			}
			return
		}
		r.mu.Lock()
		if r.over {
			r.mu.Unlock()
			conn.Close()
			continue
		}
		r.conns[conn] = struct{}{}
		r.wg.Add(1)
		r.mu.Unlock()
		go r.serve(conn)
	}
}

func (r *receiver) serve(conn net.Conn) {
	defer r.wg.Done()
	if err := r.talk(conn); !broken(err) { // a dialog only ends by an error
		r.ledger.Note(fmt.Sprintf("the core's dialog: %v", err))
	}
	conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
	r.idle.Broadcast()
}

// broken reports an end that a killed core, a cut or close may make.
func broken(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, errCut, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (r *receiver) talk(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 64<<10)
	hello, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	var life int
	if _, err := fmt.Sscanf(hello, "LHLO %d\n", &life); err != nil || life < 1 {
		return fmt.Errorf("greeting %q", clip(hello))
	}
	if _, err := io.WriteString(conn, "220 ready\n"); err != nil {
		return err
	}
	sum := sha256.New()
	for {
		t, err := readTransaction(in)
		if err != nil {
			return err
		}
		if len(t.rcpts) == 0 {
			return fmt.Errorf("message %s: no recipients", t.key)
		}
		sum.Reset()
		if _, err := io.CopyN(sum, in, t.size); err != nil {
			return err
		}
		reply, err := r.decide(life, t, sumOf(sum))
		if err != nil {
			return err
		}
		if _, err := conn.Write(reply); err != nil {
			return err
		}
	}
}

// decide is the moment at which the receiving store has a message, or has not.
func (r *receiver) decide(life int, t *transaction, d Digest) ([]byte, error) {
	first := t.rcpts[0]
	cut := r.policy.Cut(t.key, first.index, r.ledger.Attempts(t.key, first.index))
	var reply []byte
	for _, c := range t.rcpts {
		if want := address(t.key, c.index, t.queue); c.address != want {
			// Taken without a copy, so that it ends and counts as lost.
			r.ledger.Note(fmt.Sprintf("message %s, recipient %d came as %q, not %q", t.key, c.index, clip(c.address), want))
			reply = fmt.Appendf(reply, "%d %d\n", Take, c.index)
			continue
		}
		answer := r.policy.Answer(t.key, c.index, r.ledger.Attempts(t.key, c.index))
		r.ledger.HandOver(HandOver{
			Key: t.key, Recipient: c.index, Stamp: NewStamp(life, t.seq), InDoubt: c.inDoubt, Digest: d,
			Stored: answer == Take && cut != CutBefore,
		})
		reply = fmt.Appendf(reply, "%d %d\n", answer, c.index)
	}
	if cut != CutNone {
		return nil, errCut
	}
	return reply, nil
}

// settle waits until every connection has ended, as they do on their own when
// the core has died.
func (r *receiver) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.conns) > 0 {
		r.idle.Wait()
	}
}

// close ends everything.
func (r *receiver) close() {
	r.ln.Close()
	r.mu.Lock()
	r.over = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
