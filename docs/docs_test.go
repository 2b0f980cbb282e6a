// Package docs has no code: this test keeps its pages true to the code beside them.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	// link is the target of a Markdown link within this repository.
	link = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	// anchored is one that names a heading, of this page if it names no other.
	anchored = regexp.MustCompile(`\]\(([^)#\s:]*)#([^)]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
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

func TestAnchorsAreHeadings(t *testing.T) {
	texts := pages(t)
	for page, text := range texts {
		for _, m := range anchored.FindAllStringSubmatch(text, -1) {
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			if of, ok := texts[target]; ok && !anchors(of)[m[2]] {
				t.Errorf("%s links to the heading #%s of %s, which it does not have", page, m[2], target)
			}
		}
	}
}

// anchors of a page's headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		out[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1])] = true
	}
	return out
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
