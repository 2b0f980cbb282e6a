package archtest

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/minid/minid/"

// only names the rooms that may import a library; everybody else may not.
var only = []struct {
	path   string
	rooms  []string
	reason string
}{
	{"github.com/hashicorp/raft", []string{"store/raftstore"}, "the state machine must not know how it is replicated"},
	{"github.com/containerd/containerd", []string{"agent/containerd", "integration"}, "the runtime is behind task.Runtime"},
	{"github.com/vishvananda/netlink", []string{"network", "integration"}, "kernel state is wanted in one place"},
	{"github.com/vishvananda/netns", []string{"network", "integration", "agent/containerd"}, "kernel state is wanted in one place"},
	{"github.com/google/nftables", []string{"network", "integration"}, "kernel state is wanted in one place"},
	{"github.com/spf13/cobra", []string{"cmd"}, "the command line is the outermost layer"},
}

// never lists forbidden arrows between our own rooms.
var never = []struct {
	from, to string
	reason   string
}{
	{"agent", "manager", "managers and agents meet at proto"},
	{"manager", "agent", "managers and agents meet at proto"},
	{"store", "manager", "the store does not know its users"},
	{"store", "rpc", "the store does not know the wire"},
	{"scheduler", "manager", "the scheduler is pure"},
	{"scheduler", "rpc", "the scheduler is pure"},
	{"network", "manager", "nodes learn only assignments"},
	{"network", "store", "nodes learn only assignments"},
	{"agent", "store", "agents learn only assignments"},
	{"cmd", "store", "programs speak the API"},
	{"cmd", "manager", "programs speak the API"},
	{"client", "manager", "clients speak the API"},
	{"client", "store", "clients speak the API"},
}

// noWire must not import gRPC itself.
var noWire = []string{"store", "scheduler", "agent/task", "network", "manager/orchestrator", "manager/placement", "manager/reaper", "fault"}

// pure packages decide and never read the clock or log.
var pure = []string{"scheduler", "store", "fault", "cron", "internal/restarts"}

func TestImports(t *testing.T) {
	for _, f := range moduleFiles(t) {
		for _, path := range f.Imports() {
			checkLibrary(t, f, path)
			if room, ours := strings.CutPrefix(path, module); ours && !f.Test {
				checkArrow(t, f, room)
			}
			if !f.Test && slices.Contains(noWire, f.Dir) && strings.HasPrefix(path, "google.golang.org/grpc") {
				t.Errorf("%s imports %s: %s must not know the wire", f.Path, path, f.Dir)
			}
		}
	}
}

func checkLibrary(t *testing.T, f *File, path string) {
	for _, rule := range only {
		if !within(path, rule.path) {
			continue
		}
		if !slices.ContainsFunc(rule.rooms, func(room string) bool { return within(f.Dir, room) }) {
			t.Errorf("%s imports %s, which only %v may: %s", f.Path, path, rule.rooms, rule.reason)
		}
	}
}

func checkArrow(t *testing.T, f *File, room string) {
	for _, rule := range never {
		if within(f.Dir, rule.from) && within(room, rule.to) {
			t.Errorf("%s imports %s: %s", f.Path, room, rule.reason)
		}
	}
	from, inManager := strings.CutPrefix(f.Dir, "manager/")
	to, ofManager := strings.CutPrefix(room, "manager/")
	if inManager && ofManager && from != to {
		t.Errorf("%s imports its sibling %s: they meet at the store", f.Path, room)
	}
}

func TestSizes(t *testing.T) {
	for _, f := range moduleFiles(t) {
		if f.Test {
			continue
		}
		if f.Lines > 600 {
			t.Errorf("%s has %d lines, more than 600: split it by what it is about", f.Path, f.Lines)
		}
		for _, decl := range f.AST.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				checkFunc(t, f, fn)
			}
		}
	}
}

func checkFunc(t *testing.T, f *File, fn *ast.FuncDecl) {
	if n := f.Length(fn); n > 80 {
		t.Errorf("%s:%d %s has %d lines, more than 80", f.Path, f.Line(fn), fn.Name.Name, n)
	}
	if n := Nesting(fn); n > 4 {
		t.Errorf("%s:%d %s nests %d deep, more than 4", f.Path, f.Line(fn), fn.Name.Name, n)
	}
	if n := fn.Type.Params.NumFields(); n > 5 && !foreign[f.Path+" "+fn.Name.Name] {
		t.Errorf("%s:%d %s takes %d parameters, more than 5", f.Path, f.Line(fn), fn.Name.Name, n)
	}
	if fn.Name.Name == "init" && fn.Recv == nil {
		t.Errorf("%s:%d has an init function: what runs at import cannot be tested", f.Path, f.Line(fn))
	}
}

// foreign names functions whose parameters a library's interface decides.
var foreign = map[string]bool{
	"store/raftstore/memory.go Create":    true,
	"store/raftstore/snapshots.go Create": true,
}

func TestInterfacesAreSmall(t *testing.T) {
	for _, f := range moduleFiles(t) {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if it, ok := n.(*ast.InterfaceType); ok && it.Methods.NumFields() > 8 {
				t.Errorf("%s:%d interface with %d methods, more than 8", f.Path, f.Line(n), it.Methods.NumFields())
			}
			return true
		})
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	said := map[string]bool{}
	for _, f := range moduleFiles(t) {
		if !f.Test {
			said[f.Dir] = said[f.Dir] || f.AST.Doc != nil
		}
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
		base := dir[strings.LastIndex(dir, "/")+1:]
		if slices.Contains([]string{"util", "utils", "common", "helpers", "types"}, base) {
			t.Errorf("package %s: name it after what it does", dir)
		}
	}
}

func TestExportedThingsAreDocumented(t *testing.T) {
	var all, bare int
	var first []string
	for _, f := range moduleFiles(t) {
		if f.Test || f.AST.Name.Name == "main" {
			continue
		}
		for _, decl := range f.AST.Decls {
			name, documented := exported(decl)
			if name == "" {
				continue
			}
			all++
			if !documented {
				bare++
				first = append(first, f.Path+" "+name)
			}
		}
	}
	if bare*10 > all {
		t.Errorf("%d of %d exported declarations have no comment: %v", bare, all, first[:min(len(first), 40)])
	}
}

func exported(decl ast.Decl) (name string, documented bool) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || !interfaceMethod[d.Name.Name]) {
			return d.Name.Name, d.Doc != nil
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() {
				return ts.Name.Name, d.Doc != nil || ts.Doc != nil
			}
		}
	}
	return "", false
}

// interfaceMethod names methods whose contract is their interface's.
var interfaceMethod = map[string]bool{"Error": true, "Unwrap": true, "String": true, "Len": true, "Less": true, "Swap": true, "Push": true, "Pop": true, "Close": true, "Read": true, "Write": true}

func TestPureRoomsReadNoClock(t *testing.T) {
	for _, f := range moduleFiles(t) {
		if f.Test || !slices.Contains(pure, f.Dir) {
			continue
		}
		for _, path := range f.Imports() {
			if path == "log/slog" || path == "math/rand" || path == "math/rand/v2" {
				t.Errorf("%s imports %s: pure packages take what they need as values", f.Path, path)
			}
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && isTimeNow(sel) {
				t.Errorf("%s:%d reads the clock: take now as a value", f.Path, f.Line(n))
			}
			return true
		})
	}
}

func isTimeNow(sel *ast.SelectorExpr) bool {
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "NewTimer", "Sleep"}, sel.Sel.Name)
}

func moduleFiles(t *testing.T) []*File {
	t.Helper()
	files, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d files found: the rules would pass on nothing", len(files))
	}
	return files
}

func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }
