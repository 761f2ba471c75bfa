package mailq

import (
	"encoding/json"
	"fmt"
	"time"
)

// QueueMode is what a queue does with what is due in it.
type QueueMode uint8

// The modes of a queue.
const (
	Active    QueueMode = iota // hands out what is due
	HoldQueue                  // hands out nothing, new mail included
	Suspended                  // hands out nothing; takes no new mail either
)

var queueModeNames = [...]string{Active: "active", HoldQueue: "hold", Suspended: "suspend"}

// String returns the mode in a word, the one that sets it.
func (m QueueMode) String() string {
	if int(m) < len(queueModeNames) {
		return queueModeNames[m]
	}
	return fmt.Sprintf("QueueMode(%d)", uint8(m))
}

// MarshalText implements encoding.TextMarshaler.
func (m QueueMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: it reads the words that String writes.
func (m *QueueMode) UnmarshalText(text []byte) error {
	i, err := indexOf(queueModeNames[:], "QueueMode", text)
	if err == nil {
		*m = QueueMode(i)
	}
	return err
}

// DoubtPolicy is what a queue does with a recipient that comes back in doubt.
type DoubtPolicy uint8

// The policies. A recipient handed out again is always announced as in doubt.
const (
	Redeliver  DoubtPolicy = iota // hand it out again at once
	HoldDoubt                     // hold it for an operator
	DeferDoubt                    // hand it out again after QueueState.DoubtDelay
)

var doubtPolicyNames = [...]string{Redeliver: "redeliver", HoldDoubt: "hold", DeferDoubt: "defer"}

// String returns the policy in a word, the one that sets it.
func (p DoubtPolicy) String() string {
	if int(p) < len(doubtPolicyNames) {
		return doubtPolicyNames[p]
	}
	return fmt.Sprintf("DoubtPolicy(%d)", uint8(p))
}

// MarshalText implements encoding.TextMarshaler.
func (p DoubtPolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: it reads the words that String writes.
func (p *DoubtPolicy) UnmarshalText(text []byte) error {
	i, err := indexOf(doubtPolicyNames[:], "DoubtPolicy", text)
	if err == nil {
		*p = DoubtPolicy(i)
	}
	return err
}

// QueueState is the durable state of a queue. The zero value is that of a queue
// nobody touched.
type QueueState struct {
	Mode       QueueMode
	Doubt      DoubtPolicy
	DoubtDelay time.Duration
}

// queueStateJSON is a QueueState for programs: the delay as text, such as "1m30s".
type queueStateJSON struct {
	Mode       QueueMode   `json:"mode"`
	Doubt      DoubtPolicy `json:"doubt"`
	DoubtDelay string      `json:"doubt_delay,omitempty"`
}

// MarshalJSON implements json.Marshaler: mode, doubt and doubt_delay, as text.
func (s QueueState) MarshalJSON() ([]byte, error) {
	j := queueStateJSON{Mode: s.Mode, Doubt: s.Doubt}
	if s.DoubtDelay != 0 {
		j.DoubtDelay = s.DoubtDelay.String()
	}
	return json.Marshal(j)
}

// UnmarshalJSON implements json.Unmarshaler: it reads what MarshalJSON writes.
func (s *QueueState) UnmarshalJSON(b []byte) error {
	var j queueStateJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	var delay time.Duration
	if j.DoubtDelay != "" {
		var err error
		if delay, err = time.ParseDuration(j.DoubtDelay); err != nil {
			return &FieldError{Field: "DoubtDelay", Reason: fmt.Sprintf("%q is no duration", clip(j.DoubtDelay))}
		}
	}
	*s = QueueState{Mode: j.Mode, Doubt: j.Doubt, DoubtDelay: delay}
	return nil
}
