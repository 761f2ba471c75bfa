package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// drainListener is a listener with a limit of connections, whose Close also ends
// the reading of those there are: those that wait for a command are told 421 by
// the server, those that wait for a reply get it first.
type drainListener struct {
	net.Listener
	most int // connections at a time

	mu       sync.Mutex
	draining bool
	conns    map[*drainConn]struct{}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// Accept implements net.Listener. Connections over the limit are told so.
func (l *drainListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.add(conn); c != nil {
			return c, nil
		}
		// Nobody cares whether it gets there, but it must not hold up the others.
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(conn, "421 4.3.2 too many connections, try again later\r\n")
		_ = conn.Close()
	}
}

// add returns nil if there are enough.
func (l *drainListener) add(conn net.Conn) net.Conn {
	c := &drainConn{Conn: conn, listener: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = make(map[*drainConn]struct{})
	}
	if len(l.conns) >= l.most {
		return nil
	}
	l.conns[c] = struct{}{}
	return c
}

// Close implements net.Listener.
func (l *drainListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	for c := range l.conns {
		// An error means that the connection is closed already.
		_ = c.Conn.SetReadDeadline(longAgo)
	}
	return l.Listener.Close()
}

type drainConn struct {
	net.Conn
	listener *drainListener
}

// SetReadDeadline implements net.Conn. The server calls it before each command.
func (c *drainConn) SetReadDeadline(t time.Time) error {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.listener.draining {
		t = longAgo
	}
	return c.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
func (c *drainConn) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.conns, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
