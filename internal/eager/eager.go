// Package eager has a store do all the time what it does by itself now and then. The drill and torture crash it while it does.
package eager

import "sync/atomic"

// Cold has all that is cheap to copy go into cold segments, as soon as a checkpoint tells of it and whether the tail is full or not, for the
// stores of this process.
var Cold atomic.Bool
