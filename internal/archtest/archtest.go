// Package archtest holds the house rules as tests: who may import whom, how
// large things may grow, and what pure packages must not call.
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
)

// File is one parsed Go file of the module, generated ones left out.
type File struct {
	// Path is relative to the module's root; Dir is its folder.
	Path, Dir string
	Test      bool
	Lines     int
	Fset      *token.FileSet
	AST       *ast.File
}

// Load parses every hand-written Go file below root.
func Load(root string) ([]*File, error) {
	var files []*File
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, path, d.Name())
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		f, err := load(root, path)
		if err == nil {
			files = append(files, f)
		}
		return err
	})
	return files, err
}

func skipDir(root, path, name string) error {
	if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "tools") {
		return filepath.SkipDir
	}
	return nil
}

func load(root, path string) (*File, error) {
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	return &File{
		Path:  rel,
		Dir:   filepath.ToSlash(filepath.Dir(rel)),
		Test:  strings.HasSuffix(path, "_test.go"),
		Lines: fset.File(tree.Pos()).LineCount(),
		Fset:  fset,
		AST:   tree,
	}, nil
}

// Imports returns the paths that a file imports.
func (f *File) Imports() []string {
	var paths []string
	for _, spec := range f.AST.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

// Line tells where a node starts.
func (f *File) Line(n ast.Node) int { return f.Fset.Position(n.Pos()).Line }

// Length is the number of lines that a node covers.
func (f *File) Length(n ast.Node) int {
	return f.Fset.Position(n.End()).Line - f.Line(n) + 1
}

// Nesting is the depth of blocks below a function's body.
func Nesting(fn *ast.FuncDecl) int {
	if fn.Body == nil {
		return 0
	}
	return depth(fn.Body, 0)
}

func depth(n ast.Node, at int) int {
	deepest := at
	ast.Inspect(n, func(child ast.Node) bool {
		if child == nil || child == n {
			return true
		}
		switch child.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt, *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt, *ast.FuncLit:
			deepest = max(deepest, depth(child, nested(n, child, at)))
			return false
		}
		return true
	})
	return deepest
}

// nested counts `else if` as the same depth as its `if`.
func nested(parent, child ast.Node, at int) int {
	if p, ok := parent.(*ast.IfStmt); ok && p.Else == child {
		return at
	}
	return at + 1
}
