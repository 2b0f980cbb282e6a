// Package print is minictl's one printer: every list and every inspection goes
// through it, so that each takes the same formats and looks the same.
package print

import (
	"strings"

	"github.com/minid/minid/fault"
)

// Kind is a family of output formats.
type Kind int

// The kinds of output.
const (
	// Table is columns for people; not stable between releases.
	Table Kind = iota
	// Wide is Table with the columns that are rarely needed.
	Wide
	// JSON is the API object, one line per object in lists.
	JSON
	// YAML is the API object, one document per object.
	YAML
	// Template is a Go template, applied to each object.
	Template
)

// Format says how to print.
type Format struct {
	Kind Kind
	// Text of a Go template; with Kind Table, the columns of a custom table.
	Text string
	// Quiet prints ids only.
	Quiet bool
	// Width of a table in characters, 0 for any: columns that do not fit are left
	// out, those at the right first.
	Width int
	// NoTrunc prints ids, images and errors whole.
	NoTrunc bool
}

// ParseFormat reads the value of --format.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "", "table":
		return Format{Kind: Table}, nil
	case "wide":
		return Format{Kind: Wide}, nil
	case "json":
		return Format{Kind: JSON}, nil
	case "yaml":
		return Format{Kind: YAML}, nil
	}
	if text, ok := strings.CutPrefix(s, "table "); ok {
		return Format{Kind: Table, Text: unescape(text)}, nil
	}
	if !strings.Contains(s, "{{") {
		return Format{}, fault.New(fault.Invalid, "unknown format %q: it is neither table, wide, json, yaml nor a Go template", s).
			WithTry("--format '{{.ID}}'")
	}
	return Format{Kind: Template, Text: unescape(s)}, nil
}

// unescape turns the \t and \n that shells pass on literally into what they mean.
func unescape(s string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s)
}
