package controlapi

import (
	"errors"
	"io"
	"strings"
	"text/template"
	"text/template/parse"
)

// placeholders has the shape of what agents expand templates with, so that a
// misspelt field is refused here and not on the node.
type placeholders struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct {
		ID, Hostname string
		Platform     struct{ Architecture, OS string }
	}
	Task struct{ ID, Name, Slot string }
}

func isTemplate(text string) bool { return strings.Contains(text, "{{") }

// checkTemplate tries texts that may hold placeholders. Loops are refused:
// they have no use in a value, and could run for ever on every node.
func checkTemplate(what string, texts ...string) error {
	for _, text := range texts {
		if !isTemplate(text) {
			continue
		}
		t, err := template.New(what).Funcs(template.FuncMap{"join": strings.Join}).Parse(text)
		if err == nil && loops(t.Root) {
			return invalid("%s %q: a template cannot loop or call another", what, text)
		}
		if err == nil {
			err = t.Execute(io.Discard, placeholders{})
		}
		if err != nil {
			return invalid("%s %q: bad template: %s", what, text, plainly(err)).
				WithTry("{{.Service.Name}}, {{.Task.Slot}}, {{.Node.Hostname}} and their like")
		}
	}
	return nil
}

// plainly leaves out of a template's error where in this program it came up.
func plainly(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[template.ExecError](err); ok {
		text = e.Err.Error()
	}
	text, _, _ = strings.Cut(text, " in type ")
	if i := strings.LastIndex(text, ">: "); i >= 0 {
		text = text[i+len(">: "):]
	}
	return strings.TrimPrefix(text, "template: ")
}

// loops tells whether a template repeats anything.
func loops(n parse.Node) bool {
	switch n := n.(type) {
	case *parse.RangeNode, *parse.TemplateNode:
		return true
	case *parse.ListNode:
		if n == nil {
			return false
		}
		for _, child := range n.Nodes {
			if loops(child) {
				return true
			}
		}
	case *parse.IfNode:
		return loops(n.List) || loops(n.ElseList)
	case *parse.WithNode:
		return loops(n.List) || loops(n.ElseList)
	}
	return false
}
