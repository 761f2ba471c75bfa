package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// config is what the flags say.
type config struct {
	listen   string
	storeDir string
	maildir  string
	hostname string
	local    map[string]bool     // domains delivered into the Maildir, lower case
	nextHop  string              // host:port for mail that has no route; "": there is no such mail
	routes   map[string]string   // host:port by domain, lower case
	lists    map[string][]string // members by the address of the list, lower case

	workers        int
	hostLimits     map[string]int // connections at a time, by host:port
	maxConnections int            // of clients
	maxSize        int64          // bytes of a message
	maxRecipients  int
	holdDoubt      []string // domains whose mail in doubt waits for an operator
	expire         time.Duration
	retryBase      time.Duration
	retryMax       time.Duration
	stopTimeout    time.Duration
	commandWait    time.Duration // for a reply of the next hop
	finalWait      time.Duration // for the transfer of a body, then for the reply to the final dot
}

func parseFlags(args []string, output io.Writer) (config, error) {
	c := config{local: make(map[string]bool), routes: make(map[string]string), hostLimits: make(map[string]int)}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	domains, lists := "localhost", ""
	fs := flag.NewFlagSet("relay", flag.ContinueOnError)
	fs.SetOutput(output)
	fs.StringVar(&c.listen, "listen", "127.0.0.1:2525", "`address` to accept SMTP on; there is no authentication, keep it on loopback")
	fs.StringVar(&c.storeDir, "store", "queue", "`directory` of the store")
	fs.StringVar(&c.maildir, "maildir", "Maildir", "`directory` that mail for local domains goes to")
	fs.StringVar(&c.hostname, "hostname", host, "`name` of this relay in greetings and headers")
	fs.StringVar(&domains, "local-domains", domains, "`domains` delivered into the Maildir, separated by commas")
	fs.StringVar(&c.nextHop, "next-hop", "", "`host:port` that all mail without a route goes to; without it such mail is refused")
	fs.Func("route", "`domain=host:port` that the domain's mail goes to; may be given again", func(s string) error {
		domain, hop, err := splitPair(s)
		c.routes[strings.ToLower(domain)] = hop
		return err
	})
	fs.Func("host-limit", "`host:port=n`, at most n connections to that host at a time; may be given again", func(s string) error {
		hop, n, err := splitPair(s)
		if err == nil {
			c.hostLimits[hop], err = strconv.Atoi(n)
		}
		return err
	})
	fs.StringVar(&lists, "lists", "", "`file` of mailing lists: lines such as \"team@example.org: a@example.org, b@example.net\"")
	fs.Func("hold-doubt", "`domain` whose mail waits for an operator when it may have been delivered; may be given again", func(s string) error {
		c.holdDoubt = append(c.holdDoubt, strings.ToLower(s))
		return nil
	})
	fs.IntVar(&c.workers, "workers", 8, "deliveries at a time")
	fs.IntVar(&c.maxConnections, "max-connections", 200, "connections of clients at a time")
	fs.Int64Var(&c.maxSize, "max-size", 10<<20, "largest message in `bytes`")
	fs.IntVar(&c.maxRecipients, "max-recipients", 1000, "most recipients of a message")
	fs.DurationVar(&c.expire, "expire", 5*24*time.Hour, "how long a message is tried before it is returned")
	fs.DurationVar(&c.retryBase, "retry-base", time.Minute, "wait before the second attempt, of a message or a dead host; it doubles each time")
	fs.DurationVar(&c.retryMax, "retry-max", 4*time.Hour, "longest wait between attempts")
	fs.DurationVar(&c.stopTimeout, "stop-timeout", 30*time.Second, "what deliveries under way get to finish on SIGTERM")
	fs.DurationVar(&c.commandWait, "command-timeout", 5*time.Minute, "wait for a reply of the next hop")
	fs.DurationVar(&c.finalWait, "data-timeout", 10*time.Minute, "time to send a body, then wait for the reply to the final dot")
	if err := fs.Parse(args); err != nil {
		return config{}, err
	}
	for d := range strings.SplitSeq(domains, ",") {
		if d = strings.ToLower(strings.TrimSpace(d)); d != "" {
			c.local[d] = true
		}
	}
	switch {
	case fs.NArg() > 0:
		return config{}, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case c.workers < 1 || c.maxConnections < 1 || c.maxRecipients < 1 || c.maxSize < 1:
		return config{}, errors.New("-workers, -max-connections, -max-recipients and -max-size must be at least 1")
	case c.retryBase <= 0 || c.retryMax < c.retryBase:
		return config{}, errors.New("-retry-base must be above 0 and at most -retry-max")
	case c.expire <= 0 || c.stopTimeout <= 0 || c.commandWait <= 0 || c.finalWait <= 0:
		return config{}, errors.New("-expire and the timeouts must be above 0")
	}
	for hop, n := range c.hostLimits {
		if _, _, err := net.SplitHostPort(hop); err != nil || n < 1 {
			return config{}, fmt.Errorf("-host-limit %s=%d: want a host:port and at least 1", hop, n)
		}
	}
	if lists != "" {
		f, err := os.Open(lists)
		if err != nil {
			return config{}, err
		}
		defer f.Close()
		if c.lists, err = readLists(f); err != nil {
			return config{}, fmt.Errorf("%s: %w", lists, err)
		}
	}
	return c, nil
}

func splitPair(s string) (name, value string, err error) {
	i := strings.LastIndexByte(s, '=')
	if i < 1 || i == len(s)-1 {
		return "", "", fmt.Errorf("%q is not of the form name=value", s)
	}
	return s[:i], s[i+1:], nil
}

// readLists reads the members of mailing lists, by the address of the list.
func readLists(r io.Reader) (map[string][]string, error) {
	lists := make(map[string][]string)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		list, members, _ := strings.Cut(line, ":")
		list = strings.ToLower(strings.TrimSpace(list))
		for _, m := range append([]string{list}, strings.Split(members, ",")...) {
			m = strings.TrimSpace(m)
			if _, _, ok := splitAddress(m); !ok {
				return nil, fmt.Errorf("line %d: %q is not an address", n, m)
			}
			lists[list] = append(lists[list], m)
		}
		lists[list] = lists[list][1:] // the list itself was looked at with them
	}
	return lists, lines.Err()
}

// Queues that are no destination domain.
const (
	localQueue   = "local" // for the Maildir
	listQueue    = "list"  // for the members of the list to take its place
	remotePrefix = "smtp:"
)

// queueFor names the queue that mail for an address waits in.
func (c config) queueFor(address, domain string) string {
	switch {
	case c.lists[strings.ToLower(address)] != nil:
		return listQueue
	case c.local[domain]:
		return localQueue
	}
	return remotePrefix + domain
}

// hostFor is where the mail of a queue is sent, "" if nowhere.
func (c config) hostFor(queue string) string {
	domain, ok := strings.CutPrefix(queue, remotePrefix)
	if !ok {
		return ""
	}
	if hop := c.routes[domain]; hop != "" {
		return hop
	}
	return c.nextHop
}
