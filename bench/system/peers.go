//go:build !lean

package system

// others are the peers whose dependencies take minutes to compile. The tag lean leaves them out, for
// whoever checks the rest of this module often.
var others = []Spec{Badger, JetStream, SQLite, EtcdWAL}
