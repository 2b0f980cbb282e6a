package print

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Inspected is one object to show whole.
type Inspected struct {
	Message proto.Message
	// Fields is what Go templates see.
	Fields any
}

// Inspect prints whole objects: a JSON array unless the format says otherwise.
func Inspect(w io.Writer, f Format, items []Inspected) error {
	switch f.Kind {
	case YAML:
		for i, item := range items {
			if i > 0 {
				fmt.Fprintln(w, "---")
			}
			text, err := marshal(YAML, item.Message)
			if err != nil {
				return err
			}
			w.Write(text)
		}
		return nil
	case Template:
		t, err := parseTemplate(f.Text)
		if err != nil {
			return err
		}
		for _, item := range items {
			if err := execute(w, t, item.Fields); err != nil {
				return err
			}
		}
		return nil
	}
	return inspectJSON(w, items)
}

func inspectJSON(w io.Writer, items []Inspected) error {
	all := make([]json.RawMessage, len(items))
	for i, item := range items {
		b, err := marshal(JSON, item.Message)
		if err != nil {
			return err
		}
		all[i] = b
	}
	text, err := json.MarshalIndent(all, "", "    ")
	if err != nil {
		return fmt.Errorf("encode json: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}

// marshal writes a message as one line of JSON or as a YAML document. protojson
// varies its white space on purpose, so that has to be evened out.
func marshal(kind Kind, m proto.Message) ([]byte, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode json: %w", err)
	}
	if kind == JSON {
		var line bytes.Buffer
		err := json.Compact(&line, raw)
		return line.Bytes(), err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return nil, fmt.Errorf("encode yaml: %w", err)
	}
	blockStyle(&node)
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	err = enc.Encode(&node)
	return text.Bytes(), err
}

// blockStyle removes the braces and quotes that a YAML tree read from JSON has.
func blockStyle(n *yaml.Node) {
	switch {
	case n.Kind != yaml.ScalarNode:
		n.Style = 0
	case n.Tag == "!!str":
		n.Style &^= yaml.DoubleQuotedStyle
	}
	for _, child := range n.Content {
		blockStyle(child)
	}
}

// One prints a single object without a list around it.
func One(w io.Writer, f Format, item Inspected) error {
	if f.Kind != JSON {
		return Inspect(w, f, []Inspected{item})
	}
	text, err := marshal(JSON, item.Message)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}
