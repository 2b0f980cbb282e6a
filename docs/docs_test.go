// Package docs has no code: this test keeps its pages true to the code beside them.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// link is the target of a Markdown link within this repository.
	link = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	// cited is a name that the text places in a file: `Propose` in [store/…](…).
	cited = regexp.MustCompile("`([\\w.]+)`(?: and `([\\w.]+)`)? (?:in|of) (?:the )?\\[[^\\]]*\\]\\(([^)#]+\\.(?:go|proto))\\)")
)

func TestLinksLeadSomewhere(t *testing.T) {
	for page, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", page, m[1])
			}
		}
	}
}

func TestCitedNamesAreInTheirFiles(t *testing.T) {
	found := 0
	for page, text := range pages(t) {
		for _, m := range cited.FindAllStringSubmatch(text, -1) {
			source, err := os.ReadFile(filepath.Join(filepath.Dir(page), m[3]))
			if err != nil {
				continue // TestLinksLeadSomewhere reports it
			}
			for _, name := range m[1:3] {
				last := name[strings.LastIndex(name, ".")+1:]
				if last == "" {
					continue
				}
				found++
				if !regexp.MustCompile(`\b` + last + `\b`).Match(source) {
					t.Errorf("%s says that %s is in %s, where it is not", page, name, m[3])
				}
			}
		}
	}
	if found == 0 {
		t.Error("no page names anything: the pattern does not fit the text any more")
	}
}

// pages returns all Markdown files of the project by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths := []string{"../README.md", "../CONTRIBUTING.md", "../rpc/DESIGN.md"}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	return texts
}
