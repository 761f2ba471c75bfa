package wal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
)

// declared is what a package declares, by its source.
func declared(t *testing.T, dir string) (list []ast.Decl) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	must(t, err)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		must(t, err)
		src, err := parser.ParseFile(token.NewFileSet(), f, text, parser.ParseComments)
		must(t, err)
		list = append(list, src.Decls...)
	}
	return list
}

// exported is what a package exports but for its methods.
func exported(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	add := func(id *ast.Ident) {
		if id.IsExported() {
			names[id.Name] = true
		}
	}
	for _, d := range declared(t, dir) {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				add(d.Name)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					add(s.Name)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						add(id)
					}
				}
			}
		}
	}
	return names
}

// One import is enough: each name of mailq is one of wal.
func TestAliases(t *testing.T) {
	forEngines := map[string]bool{
		"Claim":       true, // the engine's side of a delivery
		"NewDelivery": true, // makes a delivery of it
	}
	theirs, ours := exported(t, filepath.Join("..", "mailq")), exported(t, ".")
	if !theirs["Store"] || !ours["Store"] {
		t.Fatal("no Store was found")
	}
	for name := range theirs {
		if ours[name] == forEngines[name] {
			t.Errorf("mailq.%s: an alias in wal: %v, for engines: %v", name, ours[name], forEngines[name])
		}
	}
}

// A Store has the methods that users call, and no others.
func TestMethodsOfStore(t *testing.T) {
	want := []string{"Checkpoint", "Claim", "Compact", "Origin", "Segments", "Snapshot"} // of the engine
	contract := reflect.TypeFor[mailq.Store]()
	for i := range contract.NumMethod() {
		want = append(want, contract.Method(i).Name)
	}
	slices.Sort(want)
	var got []string
	for i, s := 0, reflect.TypeFor[*wal.Store](); i < s.NumMethod(); i++ {
		got = append(got, s.Method(i).Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("a Store has the methods\n%v, want\n%v", got, want)
	}
}

// Each exported method says what it does: of types, and of the interfaces that engines and users implement.
func TestMethodsAreDocumented(t *testing.T) {
	seen := 0
	for _, dir := range []string{".", filepath.Join("..", "mailq"), filepath.Join("..", "segment"), filepath.Join("..", "internal", "disk")} {
		check := func(of, name string, docs ...*ast.CommentGroup) {
			if !ast.IsExported(of) || !ast.IsExported(name) {
				return
			}
			seen++
			if !slices.ContainsFunc(docs, func(c *ast.CommentGroup) bool { return c != nil }) {
				t.Errorf("%s: %s.%s has no comment", dir, of, name)
			}
		}
		for _, d := range declared(t, dir) {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					check("Package", d.Name.Name, d.Doc)
					continue
				}
				of := d.Recv.List[0].Type
				if p, ok := of.(*ast.StarExpr); ok {
					of = p.X
				}
				if id, ok := of.(*ast.Ident); ok {
					check(id.Name, d.Name.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					s, ok := s.(*ast.TypeSpec)
					if !ok {
						continue
					}
					if i, ok := s.Type.(*ast.InterfaceType); ok {
						for _, m := range i.Methods.List {
							for _, id := range m.Names {
								check(s.Name.Name, id.Name, m.Doc, m.Comment)
							}
						}
					}
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d were looked at", seen)
	}
}
