//go:build !lean

package load

import (
	"testing"

	"github.com/mtawal/mtawal/bench/system"
)

// A system that can't do what is asked says so, beside others that can.
func TestDeferralOfOneThatIsUnable(t *testing.T) {
	tab := rate1(t, small(t, "deferral", system.Mtawal, system.SQLite, system.JetStream), false)
	if r := tab.Find(system.JetStream.Name); r == nil || r.Error != system.ErrUnable.Error() {
		t.Errorf("%+v, want that it is unable", r)
	}
}
