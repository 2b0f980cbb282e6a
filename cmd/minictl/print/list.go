package print

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
)

// Column is one field of a list: a column of its table and a placeholder of Go
// templates.
type Column[T any] struct {
	// Field is the placeholder's name, as Swarm has it.
	Field string
	// Header of the column; empty for fields that only templates show.
	Header string
	// Wide columns show in wide tables only.
	Wide bool
	// Optional columns are left out of tables in which they would be empty.
	Optional bool
	// Costly fields are asked for only where they are shown: templates have to
	// name them.
	Costly bool
	// Value of the field; whole asks for it without truncation.
	Value func(item T, whole bool) string
}

// List describes how objects of one kind are listed.
type List[T any] struct {
	Columns []Column[T]
	// ID is what -q prints.
	ID func(T) string
	// Object is what JSON and YAML show.
	Object func(T) proto.Message
}

// Write prints the items. Headers tells whether a table begins with them.
func (l List[T]) Write(w io.Writer, f Format, items []T, headers bool) error {
	switch {
	case f.Quiet:
		for _, item := range items {
			fmt.Fprintln(w, l.ID(item))
		}
		return nil
	case f.Kind == JSON, f.Kind == YAML:
		return l.writeObjects(w, f.Kind, items)
	case f.Text != "":
		return l.writeTemplate(w, f, items, headers)
	}
	return l.writeTable(w, f, items, headers)
}

func (l List[T]) writeObjects(w io.Writer, kind Kind, items []T) error {
	for i, item := range items {
		if kind == YAML && i > 0 {
			fmt.Fprintln(w, "---")
		}
		text, err := marshal(kind, l.Object(item))
		if err != nil {
			return err
		}
		fmt.Fprintln(w, strings.TrimRight(string(text), "\n"))
	}
	return nil
}

func (l List[T]) writeTable(w io.Writer, f Format, items []T, headers bool) error {
	var columns []Column[T]
	for _, c := range l.Columns {
		if c.Header != "" && (!c.Wide || f.Kind == Wide) && (!c.Optional || c.hasValue(items)) {
			columns = append(columns, c)
		}
	}
	var lines [][]string
	if headers {
		lines = append(lines, cells(columns, func(c Column[T]) string { return c.Header }))
	}
	for _, item := range items {
		lines = append(lines, cells(columns, func(c Column[T]) string { return Clean(c.Value(item, f.NoTrunc)) }))
	}
	shown := fitting(lines, len(columns), f.Width)
	tab := newTabWriter(w)
	for _, line := range lines {
		for i, text := range line[:shown] {
			writeCell(tab, text, i == shown-1)
		}
	}
	return tab.Flush()
}

func (c Column[T]) hasValue(items []T) bool {
	return slices.ContainsFunc(items, func(item T) bool { return c.Value(item, false) != "" })
}

func cells[C any](columns []C, text func(C) string) []string {
	line := make([]string, len(columns))
	for i, c := range columns {
		line[i] = text(c)
	}
	return line
}

// fitting counts the columns of a table that fit into a width, one at least.
func fitting(lines [][]string, columns, width int) int {
	if width == 0 {
		return columns
	}
	used := 0
	for i := range columns {
		widest := 0
		for _, line := range lines {
			widest = max(widest, utf8.RuneCountInString(line[i]))
		}
		if i > 0 && used+widest > width {
			return i
		}
		used += max(widest+cellGap, cellWidth)
	}
	return columns
}

// cellWidth is the least of a column's width, cellGap what follows its widest
// text; the last column of a table has neither.
const (
	cellWidth = 10
	cellGap   = 3
)

func newTabWriter(w io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(w, cellWidth, 1, cellGap, ' ', 0)
}

func writeCell(w io.Writer, text string, last bool) {
	end := "\t"
	if last {
		end = "\n"
	}
	io.WriteString(w, text+end)
}

func (l List[T]) writeTemplate(w io.Writer, f Format, items []T, headers bool) error {
	t, err := parseTemplate(f.Text)
	if err != nil {
		return err
	}
	out := w
	if f.Kind == Table {
		tab := newTabWriter(w)
		defer tab.Flush()
		out = tab
		if headers {
			if err := execute(out, t, l.headers()); err != nil {
				return err
			}
		}
	}
	for _, item := range items {
		fields := make(map[string]string, len(l.Columns))
		for _, c := range l.Columns {
			if !c.Costly || strings.Contains(f.Text, c.Field) {
				fields[c.Field] = c.Value(item, f.NoTrunc)
			}
		}
		if err := execute(out, t, fields); err != nil {
			return err
		}
	}
	return nil
}

func (l List[T]) headers() map[string]string {
	h := make(map[string]string, len(l.Columns))
	for _, c := range l.Columns {
		h[c.Field] = c.Header
		if c.Header == "" {
			h[c.Field] = strings.ToUpper(c.Field)
		}
	}
	return h
}

func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{
		"json":  toJSON,
		"join":  strings.Join,
		"split": strings.Split,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"pad": func(s string, before, after int) string {
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
		},
		"truncate": func(s string, n int) string {
			return Truncate(s, n)
		},
	}).Parse(text)
	if err != nil {
		return nil, fault.New(fault.Invalid, "invalid --format template: %w", err)
	}
	return t, nil
}

// execute writes a whole line or nothing.
func execute(w io.Writer, t *template.Template, data any) error {
	var line bytes.Buffer
	if err := t.Execute(&line, data); err != nil {
		// Where in this program the value came from is nobody's business.
		why, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "template: "), " in type ")
		return fault.New(fault.Invalid, "cannot apply --format template: %s", why).WithTry("--format json, to see what there is")
	}
	line.WriteByte('\n')
	_, err := w.Write(line.Bytes())
	return err
}

func toJSON(v any) (string, error) {
	if m, ok := v.(proto.Message); ok {
		b, err := marshal(JSON, m)
		return string(b), err
	}
	b, err := json.Marshal(v)
	return string(b), err
}
