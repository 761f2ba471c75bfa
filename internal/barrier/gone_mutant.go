//go:build barriermutant

package barrier

import (
	"os"
	"slices"
)

// Env names the barrier that is gone.
const Env = "MTAWAL_BARRIER"

var gone = func() Barrier {
	name := os.Getenv(Env)
	if name == "" {
		return None
	}
	i := slices.Index(names[:], name)
	if i < 0 {
		panic(Env + "=" + name + " is no barrier")
	}
	return Barrier(i)
}()

// Gone reports whether a barrier was taken away.
func Gone(b Barrier) bool { return b == gone && b != None }
