//go:build !barriermutant

package barrier

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program that is built without the tag has nothing of this package in it.
func TestNothingIsLeftInPrograms(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "walctl")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/mtawal/mtawal/cmd/walctl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command("go", "tool", "nm", bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	symbols := string(out)
	if !strings.Contains(symbols, "mtawal/wal.(*Store).commitGroup\n") {
		t.Fatal("the symbols of the program can't be seen")
	}
	for _, s := range []string{"internal/barrier", "wal.(*Store).goOn", "wal.(*ticket).repeats"} {
		if strings.Contains(symbols, s) {
			t.Errorf("%s is in the program", s)
		}
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range All() {
		if b.String() == "" || seen[b.String()] {
			t.Errorf("barrier %d is called %q", b, b)
		}
		seen[b.String()] = true
	}
}
