package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

func TestMaildirDeliversOnce(t *testing.T) {
	const content = "Subject: one\r\n\r\nbody\r\n"
	env := envelope{From: "alice@far.test"}
	first := mailq.Slot{Address: "bob@local.test"}
	again := first
	again.InDoubt = true
	deferred := first
	deferred.Attempts = 1
	name := mailName("token", first.Address)

	for _, tt := range []struct {
		name    string
		between func(t *testing.T, dir string) // the two attempts
		retry   mailq.Slot
	}{
		{"still in new", func(*testing.T, string) {}, again},
		{"still in new, not announced", func(*testing.T, string) {}, first},
		{"seen", move("new/"+name, "cur/"+name+":2,"), again},
		{"read and answered", move("new/"+name, "cur/"+name+":2,RS"), again},
		{"read, then deferred for another reason", move("new/"+name, "cur/"+name+":2,S"), deferred},
		{"moved without flags", move("new/"+name, "cur/"+name), again},
		{"died while writing", func(t *testing.T, dir string) {
			move("new/"+name, "tmp/"+name)(t, dir)
			if err := os.WriteFile(filepath.Join(dir, "tmp", name), []byte("half, and longer than the whole of it: "+content+content+content+content), 0o600); err != nil {
				t.Fatal(err)
			}
		}, again},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "Maildir")
			box, err := openMaildir(dir)
			if err != nil {
				t.Fatal(err)
			}
			d := mailq.NewDelivery(mailq.Delivery{Token: "token", Body: newBody(content)}, noClaim{})
			for _, s := range []mailq.Slot{first, {Address: "carol@local.test"}} {
				if err := box.deliver(env, d, s); err != nil {
					t.Fatal(err)
				}
			}
			tt.between(t, dir)
			if err := box.deliver(env, d, tt.retry); err != nil {
				t.Fatal(err)
			}
			count := make(map[string]int)
			for _, m := range readMaildir(t, dir) {
				count[m.header.Get("Delivered-To")]++
				if m.body != "body\r\n" || m.header.Get("Return-Path") != "<alice@far.test>" || m.header.Get("Subject") != "one" {
					t.Errorf("%s holds %v %q", m.file, m.header, m.body)
				}
			}
			if len(count) != 2 || count["bob@local.test"] != 1 || count["carol@local.test"] != 1 {
				t.Errorf("delivered %v, want one each for bob and carol", count)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
		})
	}
}

func move(from, to string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
}

type brokenBody struct{ memBody }

func (b brokenBody) WriteTo(w io.Writer) (int64, error) {
	n, _ := w.Write([]byte("Subject: ha"))
	return int64(n), errors.New("input/output error")
}

func TestMaildirKeepsNoHalfMail(t *testing.T) {
	dir := t.TempDir()
	box, err := openMaildir(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &mailq.Delivery{Token: "token", Body: brokenBody{newBody("")}}
	if err := box.deliver(envelope{}, d, mailq.Slot{Address: "bob@local.test"}); err == nil {
		t.Error("a body that can't be read was delivered")
	}
	if got := readMaildir(t, dir); len(got) != 0 {
		t.Errorf("in the Maildir: %v", got)
	}
}

func TestMailName(t *testing.T) {
	names := map[string]bool{
		mailName("a", "b@c"): true, mailName("a", "d@c"): true, mailName("e", "b@c"): true, mailName("ab", "@c"): true,
	}
	if len(names) != 4 {
		t.Errorf("4 recipients, %d names", len(names))
	}
	if name := mailName("a", "../../etc/passwd"); filepath.Base(name) != name {
		t.Errorf("an address made the name %q", name)
	}
}
