package drill

import (
	"fmt"

	"github.com/mtawal/mtawal/internal/drill/perfile"
	"github.com/mtawal/mtawal/mailq"
)

// Engine is a store that can be drilled.
type Engine struct {
	Name string
	// Open opens the store in a directory, and makes it where there is none. with says what
	// goes on beside the load, as far as the store has to do with it.
	Open func(dir string, with Companion) (mailq.Store, error)
	// Verify reads all of a store that nobody has open: "ok" or the finding.
	Verify func(dir string) (string, error)
}

// PerFile is the classic spool.
var PerFile = Engine{
	Name:   "perfile",
	Open:   func(dir string, _ Companion) (mailq.Store, error) { return opened(perfile.Open(dir)) },
	Verify: perfile.Verify,
}

// opened keeps a nil pointer from becoming a store that is not nil.
func opened[S mailq.Store](s S, err error) (mailq.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func engineOf(list []Engine, name string) (Engine, error) {
	for _, e := range list {
		if e.Name == name {
			return e, nil
		}
	}
	return Engine{}, fmt.Errorf("no store is called %q", name)
}
