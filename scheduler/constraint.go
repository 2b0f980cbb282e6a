package scheduler

import (
	"net/netip"
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

// Constraint is one hard rule about nodes, as Swarm's: KEY==VALUE or
// KEY!=VALUE. Values are compared whole and without regard to case; a label
// that a node lacks counts as the empty string.
type Constraint struct {
	key    string
	label  string // of label keys: the label's name, case kept
	value  string
	equal  bool
	prefix netip.Prefix // of node.ip
	why    reason
	// invalid is set on a stored constraint that cannot be read; no node fits it.
	invalid bool
}

// String is the canonical form, the same for constraints that mean the same.
func (c Constraint) String() string {
	return c.key + c.label + c.operator() + strings.ToLower(c.value)
}

func (c Constraint) operator() string {
	if c.equal {
		return "=="
	}
	return "!="
}

// ParseConstraint reads "node.labels.disk == ssd". Errors are fault.Invalid
// and meant for the user.
func ParseConstraint(text string) (Constraint, error) {
	key, value, equal, err := splitConstraint(text)
	if err != nil {
		return Constraint{}, err
	}
	c := Constraint{value: value, equal: equal}
	if c.key, c.label, err = parseKey(key, text); err != nil {
		return Constraint{}, err
	}
	switch c.key {
	case "node.ip":
		if c.prefix, err = parsePrefix(value); err != nil {
			return Constraint{}, fault.New(fault.Invalid, "constraint %q: %q is neither an IP address nor a subnet", text, value)
		}
	case "node.role":
		if !strings.EqualFold(value, "manager") && !strings.EqualFold(value, "worker") {
			return Constraint{}, fault.New(fault.Invalid, "constraint %q: a node's role is manager or worker, not %q", text, value)
		}
	case "node.platform.arch":
		c.value = normalArch(value)
	}
	c.why = c.phrase()
	return c, nil
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

func splitConstraint(text string) (key, value string, equal bool, err error) {
	at := strings.IndexAny(text, "=!")
	if at < 0 || at+1 >= len(text) || text[at+1] != '=' {
		return "", "", false, fault.New(fault.Invalid, "constraint %q: no operator", text).
			WithTry("write it as KEY==VALUE or KEY!=VALUE")
	}
	key, value = strings.TrimSpace(text[:at]), strings.TrimSpace(text[at+2:])
	switch {
	case value == "":
		return "", "", false, fault.New(fault.Invalid, "constraint %q: no value", text)
	case strings.Contains(value, "==") || strings.Contains(value, "!="):
		return "", "", false, fault.New(fault.Invalid, "constraint %q: more than one operator", text).
			WithTry("give each condition its own --constraint")
	case strings.HasPrefix(value, "="):
		return "", "", false, fault.New(fault.Invalid, "constraint %q: the operator is == or !=", text)
	}
	return key, value, text[at] == '=', nil
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
	if c.invalid {
		return false
	}
	return c.holds(n) == c.equal
}

func (c *Constraint) holds(n *node) bool {
	switch c.key {
	case "node.id":
		return strings.EqualFold(n.id, c.value)
	case "node.hostname":
		return strings.EqualFold(n.name, c.value)
	case "node.ip":
		return n.addr.IsValid() && c.prefix.Contains(n.addr)
	case "node.role":
		return strings.EqualFold(roleName(n.role), c.value)
	case "node.platform.os":
		return strings.EqualFold(n.os, c.value)
	case "node.platform.arch":
		return n.arch == c.value
	case nodeLabels:
		return strings.EqualFold(n.labels[c.label], c.value)
	default:
		return strings.EqualFold(n.engine[c.label], c.value)
	}
}

// phrase says in words what a node that the constraint refuses is like.
func (c *Constraint) phrase() reason {
	is := func(what string) reason {
		if c.equal {
			return reason{"is not " + what, "are not " + what}
		}
		return reason{"is " + what, "are " + what}
	}
	switch c.key {
	case "node.id":
		return is("node " + c.value)
	case "node.hostname":
		return is("named " + c.value)
	case "node.ip":
		return is("in " + c.value)
	case "node.role":
		role := strings.ToLower(c.value)
		if c.equal {
			return reason{"is not a " + role, "are not " + role + "s"}
		}
		return reason{"is a " + role, "are " + role + "s"}
	case "node.platform.os", "node.platform.arch":
		return is(c.value)
	}
	what := "label "
	if c.key == engineLabels {
		what = "engine label "
	}
	what += c.label + "=" + c.value
	if c.equal {
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

// value is the bucket that a node belongs to; nodes without the label share "".
func (k SpreadKey) value(n *node) string {
	if k.prefix == nodeLabels {
		return n.labels[k.label]
	}
	return n.engine[k.label]
}
