//go:build !lean

package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// JetStream is an embedded NATS server with a file store that syncs always; clients connect in
// the process, without a socket. A stream with work-queue retention; what waits meanwhile is published as one
// atomic batch, which the file store syncs once. Acknowledging with AckSync waits for the removal, which
// syncs. When a message that was refused is due again is not durable, so it defers nothing. A message for
// several recipients is published once for each, in one batch.
var JetStream = Spec{
	Name: "nats jetstream", Module: "github.com/nats-io/nats-server/v2",
	Durable: "embedded, SyncAlways; what waits meanwhile goes into one atomic batch",
	Queue:   "publish; pull consumer; DoubleAck on a work-queue stream; no durable deferral",
	Slow:    true,
	Open:    openJetStream,
}

const (
	jsStream  = "mail"
	jsSubject = "mail.q"
	jsBatch   = 1000 // messages in an atomic batch, at most
	// A payload of 8 MiB is the most that a server should take.
	jsMaxPayload = 8 << 20
)

type jsQueue struct {
	srv   *server.Server
	conn  *nats.Conn
	js    jetstream.JetStream
	cons  jetstream.Consumer
	mu    sync.Mutex
	iter  jetstream.MessagesContext
	group grouper[[]byte]
	batch atomic.Uint64
	n     atomic.Int64
}

func openJetStream(dir string, _ Options) (_ System, err error) {
	srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, SyncAlways: true,
		NoLog: true, NoSigs: true, MaxPayload: jsMaxPayload, JetStreamMaxMemory: 1 << 30, JetStreamMaxStore: 1 << 40})
	if err != nil {
		return nil, err
	}
	q := &jsQueue{srv: srv}
	srv.Start()
	defer func() {
		if err != nil {
			err = errors.Join(err, q.Close())
		}
	}()
	if !srv.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the server does not start")
	}
	if q.conn, err = nats.Connect("", nats.InProcessServer(srv), nats.Timeout(10*time.Second)); err != nil {
		return nil, err
	}
	if q.js, err = jetstream.New(q.conn, jetstream.WithDefaultTimeout(time.Minute)); err != nil {
		return nil, err
	}
	st, err := q.js.CreateOrUpdateStream(background, jetstream.StreamConfig{Name: jsStream, Subjects: []string{jsSubject},
		Storage: jetstream.FileStorage, Retention: jetstream.WorkQueuePolicy, AllowAtomicPublish: true, Duplicates: 100 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	q.n.Store(int64(st.CachedInfo().State.Msgs))
	q.cons, err = st.CreateOrUpdateConsumer(background, jetstream.ConsumerConfig{Durable: "mta", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: time.Hour, MaxAckPending: 100_000})
	if err != nil {
		return nil, err
	}
	q.group.commit = q.publish
	return q, nil
}

// publish makes messages durable: alone, or as atomic batches.
func (q *jsQueue) publish(list [][]byte) error {
	if len(list) == 1 {
		_, err := q.js.Publish(background, jsSubject, list[0])
		return err
	}
	for len(list) > 0 {
		part := list[:min(len(list), jsBatch)]
		list = list[len(part):]
		id := strconv.FormatUint(q.batch.Add(1), 36) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
		for i, body := range part {
			m := nats.NewMsg(jsSubject)
			m.Data = body
			m.Header.Set("Nats-Batch-Id", id)
			m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
			if i < len(part)-1 {
				if err := q.conn.PublishMsg(m); err != nil {
					return err
				}
				continue
			}
			m.Header.Set("Nats-Batch-Commit", "1")
			r, err := q.conn.RequestMsg(m, time.Minute)
			if err != nil {
				return err
			}
			if err := jsReply(r.Data, len(part)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (q *jsQueue) Enqueue(m Message) error {
	list := make([][]byte, m.Recipients)
	for i := range list {
		list[i] = m.Body
	}
	if err := q.group.do(list...); err != nil {
		return err
	}
	q.n.Add(int64(len(list)))
	return nil
}

func (q *jsQueue) Fill(list [][]byte) error {
	if err := q.group.do(list...); err != nil {
		return err
	}
	q.n.Add(int64(len(list)))
	return nil
}

type jsJob struct {
	q *jsQueue
	m jetstream.Msg
}

func (q *jsQueue) Claim(ctx context.Context) (Job, error) {
	iter, err := q.messages()
	if err != nil {
		return nil, err
	}
	m, err := iter.Next(jetstream.NextContext(ctx))
	if err != nil {
		return nil, err
	}
	return jsJob{q, m}, nil
}

// messages is opened by the first claim: it fetches ahead.
func (q *jsQueue) messages() (jetstream.MessagesContext, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.iter == nil {
		iter, err := q.cons.Messages(jetstream.PullMaxMessages(1000))
		if err != nil {
			return nil, err
		}
		q.iter = iter
	}
	return q.iter, nil
}

func (q *jsQueue) Pending() int { return int(q.n.Load()) }

func (j jsJob) Read(f func([]byte)) error { f(j.m.Data()); return nil }

func (j jsJob) Used() error {
	if err := j.m.DoubleAck(background); err != nil {
		return err
	}
	j.q.n.Add(-1)
	return nil
}

func (j jsJob) Defer(time.Time) error { return ErrUnable }

func (q *jsQueue) Clear() error {
	st, err := q.js.Stream(background, jsStream)
	if err != nil {
		return err
	}
	q.n.Store(0)
	return st.Purge(background)
}

func (q *jsQueue) Close() error {
	if q.iter != nil {
		q.iter.Stop()
	}
	if q.conn != nil {
		q.conn.Close()
	}
	q.srv.Shutdown()
	q.srv.WaitForShutdown()
	return nil
}

// jsReply checks the acknowledgement of a batch.
func jsReply(data []byte, n int) error {
	var a struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
		Count int `json:"count"`
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return err
	}
	if a.Error != nil {
		return errors.New(a.Error.Description)
	}
	if a.Count != n {
		return fmt.Errorf("%d messages were stored where %d were published", a.Count, n)
	}
	return nil
}
