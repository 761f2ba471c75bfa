package cases

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	caseTest = regexp.MustCompile(`(?m)^func TestCase(\d\d)_\w+\(`)
	caseLine = regexp.MustCompile(`(?m)^//\t(\d\d) .*? {2,}(\S.*)$`)
)

// TestEveryCaseHasATest compares the table in doc.go with the tests there are.
func TestEveryCaseHasATest(t *testing.T) {
	have := make(map[string][]string)
	err := fs.WalkDir(os.DirFS(".."), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path.Join("..", p))
		for _, m := range caseTest.FindAllStringSubmatch(string(b), -1) {
			if dir := path.Dir(p); !slices.Contains(have[m[1]], dir) {
				have[m[1]] = append(have[m[1]], dir)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string][]string)
	for _, m := range caseLine.FindAllStringSubmatch(string(doc), -1) {
		said[m[1]] = strings.Split(m[2], ", ")
	}
	for n := 1; n <= 30; n++ {
		c := fmt.Sprintf("%02d", n)
		slices.Sort(have[c])
		slices.Sort(said[c])
		if len(have[c]) == 0 || !slices.Equal(have[c], said[c]) {
			t.Errorf("case %s: the table says %v, tests are in %v", c, said[c], have[c])
		}
	}
	if len(have) != 30 || len(said) != 30 {
		t.Errorf("%d cases with a test, %d in the table", len(have), len(said))
	}
}
