package scheduler

import (
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// The attributes of a node that constraints may name.
const (
	nodeLabels   = "node.labels."
	engineLabels = "engine.labels."
	knownKeys    = "node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, node.labels.NAME or engine.labels.NAME"
)

// The operators of constraints, as they are written.
const (
	opEqual   = "=="
	opUnequal = "!="
	opIn      = "in"
	opNotIn   = "notin"
	opExists  = "exists"
	opMissing = "!exists"
	opLess    = "<"
	opMore    = ">"

	knownOperators = "KEY==VALUE, KEY!=VALUE, 'KEY in (VALUE,VALUE)', 'KEY notin (VALUE,VALUE)', 'LABEL exists', 'LABEL !exists', 'LABEL<NUMBER' or 'LABEL>NUMBER'"
)

// Constraint is one hard rule about nodes: KEY==VALUE and KEY!=VALUE as
// Swarm's, "KEY in (A,B)", "KEY notin (A,B)", and of labels "KEY exists",
// "KEY !exists", KEY<NUMBER and KEY>NUMBER. Values are compared whole and
// without regard to case; a label that a node lacks counts as the empty
// string, which is no number.
type Constraint struct {
	key   string
	label string // of label keys: the label's name, case kept
	op    string
	// values is one for most operators, none for exists, and for in and notin
	// sorted, each once.
	values   []string
	prefixes []netip.Prefix // of node.ip, in the order of values
	number   float64        // of < and >
	why      reason
	// invalid is set on a stored constraint that cannot be read; no node fits it.
	invalid bool
}

// String is the canonical form, the same for constraints that mean the same.
func (c Constraint) String() string {
	key := c.key + c.label
	switch c.op {
	case opExists, opMissing:
		return key + " " + c.op
	case opIn, opNotIn:
		return key + " " + c.op + " (" + strings.ToLower(strings.Join(c.values, ",")) + ")"
	}
	return key + c.op + strings.ToLower(strings.Join(c.values, ""))
}

// demands tells operators that ask for what they name from those that forbid it.
func (c *Constraint) demands() bool {
	return c.op != opUnequal && c.op != opNotIn && c.op != opMissing
}

// ParseConstraint reads "node.labels.disk == ssd". Errors are fault.Invalid
// and meant for the user.
func ParseConstraint(text string) (Constraint, error) {
	c, key, err := splitConstraint(text)
	if err != nil {
		return Constraint{}, err
	}
	if c.key, c.label, err = parseKey(key, text); err != nil {
		return Constraint{}, err
	}
	if err := c.readValues(text); err != nil {
		return Constraint{}, err
	}
	if c.op == opIn || c.op == opNotIn {
		c.sortValues()
	}
	c.why = c.phrase()
	return c, nil
}

// readValues checks what the key and the operator ask of the values.
func (c *Constraint) readValues(text string) error {
	switch c.op {
	case opExists, opMissing, opLess, opMore:
		if c.label == "" {
			return fault.New(fault.Invalid, "constraint %q: %s is only for labels", text, c.op).
				WithTry("compare %s with ==, !=, in or notin", c.key)
		}
	}
	if c.op == opLess || c.op == opMore {
		var ok bool
		if c.number, ok = parseNumber(c.values[0]); !ok {
			return fault.New(fault.Invalid, "constraint %q: %q is not a number", text, c.values[0])
		}
	}
	for i, value := range c.values {
		switch c.key {
		case "node.ip":
			if _, err := parsePrefix(value); err != nil {
				return fault.New(fault.Invalid, "constraint %q: %q is neither an IP address nor a subnet", text, value)
			}
		case "node.role":
			if !strings.EqualFold(value, "manager") && !strings.EqualFold(value, "worker") {
				return fault.New(fault.Invalid, "constraint %q: a node's role is manager or worker, not %q", text, value)
			}
		case "node.platform.arch":
			c.values[i] = normalArch(value)
		}
	}
	c.readPrefixes()
	return nil
}

// readPrefixes reads the values of node.ip, which are known to be good.
func (c *Constraint) readPrefixes() {
	if c.key != "node.ip" {
		return
	}
	c.prefixes = nil
	for _, value := range c.values {
		if p, err := parsePrefix(value); err == nil {
			c.prefixes = append(c.prefixes, p)
		}
	}
}

// sortValues makes lists equal that mean the same.
func (c *Constraint) sortValues() {
	fold := func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) }
	slices.SortStableFunc(c.values, fold)
	c.values = slices.CompactFunc(c.values, func(a, b string) bool { return fold(a, b) == 0 })
	c.readPrefixes()
}

// parseNumber reads a finite number.
func parseNumber(text string) (float64, bool) {
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// ParseConstraints reads all constraints of a placement and stops at the
// first bad one.
func ParseConstraints(texts []string) ([]Constraint, error) {
	var all []Constraint
	for _, text := range texts {
		c, err := ParseConstraint(text)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// wordConstraint is a constraint whose operator is a word.
var wordConstraint = regexp.MustCompile(`^\s*([^\s=!<>]+)(?:\s+(in|notin)\s*\((.*)\)|\s+(exists)|\s*(!exists))\s*$`)

// splitConstraint finds key, operator and values, whatever they are.
func splitConstraint(text string) (c Constraint, key string, err error) {
	if parts := wordConstraint.FindStringSubmatch(text); parts != nil {
		c.op = parts[2] + parts[4] + parts[5]
		if parts[2] != "" {
			c.values, err = splitValues(text, parts[3])
		}
		return c, parts[1], err
	}
	at := strings.IndexAny(text, "=!<>")
	if at < 0 || strings.IndexByte("=!", text[at]) >= 0 && !strings.HasPrefix(text[at+1:], "=") {
		return c, "", fault.New(fault.Invalid, "constraint %q: no operator", text).WithTry("write it as %s", knownOperators)
	}
	c.op = text[at : at+1]
	if text[at] == '=' || text[at] == '!' {
		c.op = text[at : at+2]
	}
	value := strings.TrimSpace(text[at+len(c.op):])
	switch {
	case value == "":
		return c, "", fault.New(fault.Invalid, "constraint %q: no value", text)
	case strings.Contains(value, opEqual) || strings.Contains(value, opUnequal):
		return c, "", fault.New(fault.Invalid, "constraint %q: more than one operator", text).
			WithTry("give each condition its own --constraint")
	case strings.HasPrefix(value, "="):
		return c, "", fault.New(fault.Invalid, "constraint %q: the operator is not one of ==, !=, < and >", text).
			WithTry("write it as %s", knownOperators)
	}
	c.values = []string{value}
	return c, strings.TrimSpace(text[:at]), nil
}

// splitValues reads what is between the brackets of a list.
func splitValues(text, list string) ([]string, error) {
	values := strings.Split(list, ",")
	for i, value := range values {
		if values[i] = strings.TrimSpace(value); values[i] == "" {
			return nil, fault.New(fault.Invalid, "constraint %q: a value in the list is empty", text).
				WithTry("write it as 'KEY in (VALUE,VALUE)'")
		}
	}
	return values, nil
}

// parseKey finds the attribute that a key names. Attribute names have no case;
// label names keep theirs.
func parseKey(key, text string) (attribute, label string, err error) {
	lower := strings.ToLower(key)
	switch lower {
	case "node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch":
		return lower, "", nil
	}
	if prefix := labelPrefix(lower); prefix != "" && len(key) > len(prefix) && !strings.ContainsAny(key, " \t\n") {
		return prefix, key[len(prefix):], nil
	}
	return "", "", fault.New(fault.Invalid, "constraint %q: unknown key %q", text, key).WithTry("use %s", knownKeys)
}

func labelPrefix(lowerKey string) string {
	for _, prefix := range [...]string{nodeLabels, engineLabels} {
		if strings.HasPrefix(lowerKey, prefix) {
			return prefix
		}
	}
	return ""
}

func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Unmap().Prefix(addr.Unmap().BitLen())
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// matches tells whether a node satisfies the constraint.
func (c *Constraint) matches(n *node) bool {
	switch c.op {
	case opEqual, opUnequal, opIn, opNotIn:
		return !c.invalid && c.holds(n) == c.demands()
	case opExists, opMissing:
		_, has := c.labels(n)[c.label]
		return has == c.demands()
	case opLess, opMore:
		have, ok := parseNumber(c.labels(n)[c.label])
		return ok && (c.op == opLess && have < c.number || c.op == opMore && have > c.number)
	}
	return false
}

func (c *Constraint) labels(n *node) map[string]string {
	if c.key == nodeLabels {
		return n.labels
	}
	return n.engine
}

// holds tells whether what a node has is among the values.
func (c *Constraint) holds(n *node) bool {
	have := ""
	switch c.key {
	case "node.ip":
		return n.addr.IsValid() && slices.ContainsFunc(c.prefixes, func(p netip.Prefix) bool { return p.Contains(n.addr) })
	case "node.id":
		have = n.id
	case "node.hostname":
		have = n.name
	case "node.role":
		have = roleName(n.role)
	case "node.platform.os":
		have = n.os
	case "node.platform.arch":
		have = n.arch
	default:
		have = c.labels(n)[c.label]
	}
	return slices.ContainsFunc(c.values, func(value string) bool { return strings.EqualFold(have, value) })
}

// phrase says in words what a node that the constraint refuses is like.
func (c *Constraint) phrase() reason {
	not := ""
	if c.demands() {
		not = "not "
	}
	is := func(what string) reason { return reason{"is " + not + what, "are " + not + what} }
	anyOf := strings.Join(c.values, " or ")
	switch c.key {
	case "node.id":
		return is("node " + anyOf)
	case "node.hostname":
		return is("named " + anyOf)
	case "node.ip":
		return is("in " + anyOf)
	case "node.role":
		anyOf = strings.ToLower(anyOf)
		return reason{"is " + not + "a " + anyOf, "are " + not + strings.ReplaceAll(anyOf, " or ", "s or ") + "s"}
	case "node.platform.os", "node.platform.arch":
		return is(anyOf)
	}
	what := "label " + c.label
	if c.key == engineLabels {
		what = "engine " + what
	}
	switch c.op {
	case opEqual, opUnequal:
		what += "=" + c.values[0]
	case opIn, opNotIn:
		what += " in (" + strings.Join(c.values, ", ") + ")"
	case opLess, opMore:
		what += " " + c.op + " " + c.values[0]
	}
	if c.demands() {
		return reason{"lacks " + what, "lack " + what}
	}
	return reason{"has " + what, "have " + what}
}

func roleName(r pb.NodeRole) string {
	if r == pb.NodeRole_NODE_ROLE_MANAGER {
		return "manager"
	}
	return "worker"
}

// normalArch maps the names that uname prints to those of Go and of images.
func normalArch(arch string) string {
	switch arch = strings.ToLower(arch); arch {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i686":
		return "386"
	case "armhf", "armv7l", "armel":
		return "arm"
	}
	return arch
}

// SpreadKey names a label that tasks are spread over.
type SpreadKey struct {
	prefix string
	label  string
}

// ParseSpread reads "node.labels.rack" or "engine.labels.zone". Errors are
// fault.Invalid and meant for the user.
func ParseSpread(text string) (SpreadKey, error) {
	text = strings.TrimSpace(text)
	prefix := labelPrefix(strings.ToLower(text))
	if prefix == "" || len(text) == len(prefix) || strings.ContainsAny(text, " \t\n=!") {
		return SpreadKey{}, fault.New(fault.Invalid, "placement preference %q: not a label", text).
			WithTry("spread over node.labels.NAME or engine.labels.NAME")
	}
	return SpreadKey{prefix: prefix, label: text[len(prefix):]}, nil
}

// Of is the bucket that a node belongs to, as value has it.
func (k SpreadKey) Of(n *pb.Node) string {
	if k.prefix == nodeLabels {
		return n.GetSpec().GetLabels()[k.label]
	}
	return n.GetDescription().GetEngineLabels()[k.label]
}

// value is the bucket that a node belongs to; nodes without the label share "".
func (k SpreadKey) value(n *node) string {
	if k.prefix == nodeLabels {
		return n.labels[k.label]
	}
	return n.engine[k.label]
}
