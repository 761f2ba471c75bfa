//go:build !lean

package system

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver, SQLite translated to Go: no cgo
)

// SQLite takes one writer at a time, so what waits meanwhile goes into one transaction. Statements
// are prepared once; readers have connections of their own, as WAL mode lets them.
var SQLite = Spec{
	Name: "sqlite", Module: "modernc.org/sqlite",
	Durable: "journal_mode=WAL, synchronous=FULL; what waits meanwhile goes into one transaction (driver in pure Go, no cgo)",
	Queue:   "INSERT of body and recipient; next ID from memory and SELECT; DELETE of both; INSERT OR REPLACE of the time",
	Open:    openSQLite,
}

type sqliteKV struct {
	write, read *sql.DB
	conn        *sql.Conn
	put, del    map[space]*sql.Stmt
	sel         *sql.Stmt
	group       grouper[op]
}

func openSQLite(dir string, _ Options) (_ System, err error) {
	open := func() (*sql.DB, error) {
		q := url.Values{"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)", "cache_size(-65536)", "mmap_size(1073741824)"}}
		return sql.Open("sqlite", "file:"+filepath.Join(dir, "mail.db")+"?"+q.Encode())
	}
	s := &sqliteKV{put: make(map[space]*sql.Stmt), del: make(map[space]*sql.Stmt)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	ctx := context.Background()
	if s.write, err = open(); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if s.conn, err = s.write.Conn(ctx); err != nil {
		return nil, err
	}
	for _, sp := range []space{bodies, states} {
		if _, err := s.conn.ExecContext(ctx, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %c (id INTEGER PRIMARY KEY, v BLOB NOT NULL)", sp)); err != nil {
			return nil, err
		}
		if s.put[sp], err = s.conn.PrepareContext(ctx, fmt.Sprintf("INSERT OR REPLACE INTO %c VALUES (?, ?)", sp)); err != nil {
			return nil, err
		}
		if s.del[sp], err = s.conn.PrepareContext(ctx, fmt.Sprintf("DELETE FROM %c WHERE id = ?", sp)); err != nil {
			return nil, err
		}
	}
	if s.read, err = open(); err != nil {
		return nil, err
	}
	s.read.SetMaxOpenConns(4)
	s.read.SetMaxIdleConns(4)
	if s.sel, err = s.read.PrepareContext(ctx, fmt.Sprintf("SELECT v FROM %c WHERE id = ?", bodies)); err != nil {
		return nil, err
	}
	s.group.commit = s.commit
	return newKVQueue(s, true)
}

func (s *sqliteKV) apply(ops []op) error { return s.group.do(ops...) }

func (s *sqliteKV) commit(ops []op) (err error) {
	ctx := context.Background()
	if _, err := s.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, o := range ops {
		if o.del {
			_, err = s.del[o.space].ExecContext(ctx, int64(o.id))
		} else {
			_, err = s.put[o.space].ExecContext(ctx, int64(o.id), o.value)
		}
		if err != nil {
			_, rerr := s.conn.ExecContext(ctx, "ROLLBACK")
			return errors.Join(err, rerr)
		}
	}
	_, err = s.conn.ExecContext(ctx, "COMMIT")
	return err
}

func (s *sqliteKV) get(sp space, id uint64, f func([]byte)) error {
	if sp != bodies {
		return ErrUnable
	}
	rows, err := s.sel.Query(int64(id))
	if err != nil {
		return err
	}
	if !rows.Next() {
		return errors.Join(fmt.Errorf("row %d is missing", id), rows.Err(), rows.Close())
	}
	var v sql.RawBytes
	if err := rows.Scan(&v); err != nil {
		return errors.Join(err, rows.Close())
	}
	f(v)
	return rows.Close()
}

func (s *sqliteKV) scan(sp space, f func(uint64, []byte) error) error {
	rows, err := s.read.Query(fmt.Sprintf("SELECT id, v FROM %c", sp))
	if err != nil {
		return err
	}
	for rows.Next() {
		var id int64
		var v sql.RawBytes
		if err := rows.Scan(&id, &v); err != nil {
			return errors.Join(err, rows.Close())
		}
		if err := f(uint64(id), v); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

func (s *sqliteKV) cleared() error { return s.Checkpoint() } // free pages are used again

func (s *sqliteKV) Checkpoint() error {
	_, err := s.conn.ExecContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

func (s *sqliteKV) Compact() error { return ErrUnable }

func (s *sqliteKV) close() error {
	var errs []error
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	return errors.Join(errs...)
}
