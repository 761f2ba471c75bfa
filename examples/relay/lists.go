package main

import (
	"strings"

	"github.com/mtawal/mtawal/mailq"
)

// expand puts the members of a mailing list in the place of its address. The body
// stays where it is, and the store writes members and used-mark in one commit: a
// crash leaves the list or its members, never both.
func (r *relay) expand(d *mailq.Delivery) []verdict {
	var vs []verdict
	for _, s := range d.Recipients {
		to := r.cfg.members(s.Address)
		if len(to) == 0 { // the file has changed since
			vs = append(vs, verdict{slot: s, result: mailq.Failed, reply: "550 5.1.1 no such list"})
			continue
		}
		vs = append(vs, verdict{slot: s, result: mailq.Replaced, replace: to})
	}
	return vs
}

// members are those of a list and of the lists in it, each once.
func (c config) members(list string) []mailq.Recipient {
	var to []mailq.Recipient
	seen := make(map[string]bool)
	var walk func(address string)
	walk = func(address string) {
		key := strings.ToLower(address)
		if seen[key] {
			return
		}
		seen[key] = true
		if members := c.lists[key]; members != nil {
			for _, m := range members {
				walk(m)
			}
			return
		}
		_, domain, _ := splitAddress(address)
		to = append(to, mailq.Recipient{Queue: c.queueFor(address, domain), Address: address})
	}
	walk(list)
	if c.lists[strings.ToLower(list)] == nil {
		return nil
	}
	return to
}
