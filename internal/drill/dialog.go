package drill

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/mtawal/mtawal/mailq"
)

// The dialog between core and receiving store is LMTP with the commands in one
// go and the body counted, as BDAT has it:
//
//	C: LHLO LIFE                               once a connection
//	S: 220 ready
//	C: MAIL KEY SEQ QUEUE
//	C: RCPT INDEX DOUBT ATTEMPTS ADDRESS       once a recipient; DOUBT is 0 or 1
//	C: BDAT SIZE
//	C: ... SIZE bytes
//	S: 250 INDEX | 450 INDEX | 550 INDEX       once a recipient, in their order

// client is the core's end of a connection. One goroutine uses it.
type client struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
}

func dial(socket string, life int) (*client, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, lineMax), w: bufio.NewWriterSize(conn, 64<<10)}
	fmt.Fprintf(c.w, "LHLO %d\n", life)
	err = c.w.Flush()
	if err == nil {
		_, err = c.r.ReadSlice('\n')
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() { c.conn.Close() }

// bodyError is a body that the store could not read to its end.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read the body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// handOver sends a delivery and returns the answers, one a recipient. Any error
// leaves open what the receiver did, and the connection is of no use any more; a
// *bodyError is the store's fault.
func (c *client) handOver(k Key, seq uint64, d *mailq.Delivery) ([]Answer, error) {
	fmt.Fprintf(c.w, "MAIL %s %d %s\n", k, seq, d.Queue)
	for _, s := range d.Recipients {
		doubt := 0
		if s.InDoubt {
			doubt = 1
		}
		fmt.Fprintf(c.w, "RCPT %d %d %d %s\n", s.Index, doubt, s.Attempts, s.Address)
	}
	fmt.Fprintf(c.w, "BDAT %d\n", d.Body.Size())
	counted := &countingWriter{w: c.w}
	if _, err := d.Body.WriteTo(counted); err != nil && counted.err == nil {
		return nil, &bodyError{err}
	}
	if counted.err == nil && counted.n != d.Body.Size() {
		return nil, &bodyError{fmt.Errorf("it is %d bytes long and should be %d", counted.n, d.Body.Size())}
	}
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	answers := make([]Answer, len(d.Recipients))
	for i, s := range d.Recipients {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		var index int
		if _, err := fmt.Sscanf(line, "%d %d\n", &answers[i], &index); err != nil || index != s.Index {
			return nil, fmt.Errorf("reply %q is not for recipient %d", clip(line), s.Index)
		}
	}
	return answers, nil
}

// countingWriter tells an error of the connection from one of the body.
type countingWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

// transaction is what a receiver was told before the body.
type transaction struct {
	key   Key
	seq   uint64
	queue string
	rcpts []rcpt
	size  int64
}

type rcpt struct {
	index   int
	inDoubt bool
	address string
}

var errCut = errors.New("cut by the receiver")

// readTransaction reads up to the body. io.EOF: the client has no more.
func readTransaction(r *bufio.Reader) (*transaction, error) {
	t := &transaction{}
	for {
		line, err := r.ReadSlice('\n')
		if err == io.EOF && len(line) > 0 || err == io.EOF && t.key != 0 {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		args := strings.Fields(string(line))
		if len(args) == 0 {
			return nil, errors.New("an empty command")
		}
		switch {
		case args[0] == "MAIL" && len(args) == 4 && t.key == 0:
			if t.key, err = ParseKey(args[1]); err != nil {
				return nil, err
			}
			if t.seq, err = strconv.ParseUint(args[2], 10, stampSeqBits); err != nil {
				return nil, err
			}
			t.queue = args[3]
		case args[0] == "RCPT" && len(args) == 5 && len(t.rcpts) < bouncesMax:
			i, err := strconv.Atoi(args[1])
			if err != nil {
				return nil, err
			}
			t.rcpts = append(t.rcpts, rcpt{index: i, inDoubt: args[2] == "1", address: args[4]})
		case args[0] == "BDAT" && len(args) == 2 && t.key != 0:
			if t.size, err = strconv.ParseInt(args[1], 10, 64); err != nil {
				return nil, err
			}
			if t.size < 0 || t.size > MailMax {
				return nil, fmt.Errorf("a body of %d bytes", t.size)
			}
			return t, nil
		default:
			return nil, fmt.Errorf("command %q", clip(string(line)))
		}
	}
}
