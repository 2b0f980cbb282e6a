package task

import (
	"cmp"
	"fmt"
	"strings"
	"text/template"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/proto"
)

// Vars are what templates can name, with Swarm's spelling:
// {{.Service.ID}}, {{.Node.Platform.OS}}, {{.Task.Slot}}.
type Vars struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct {
		ID, Hostname string
		Platform     struct{ Architecture, OS string }
	}
	Task struct {
		ID, Name string
		// Slot of a replicated task, the node's id of a global one.
		Slot string
	}
}

// NewVars collects the variables of one task.
func NewVars(w *Wanted, labels map[string]string, platform *pb.Platform) Vars {
	var v Vars
	v.Service.ID, v.Service.Name, v.Service.Labels = w.ServiceID, w.ServiceName, labels
	v.Node.ID, v.Node.Hostname = w.NodeID, w.NodeName
	v.Node.Platform.Architecture, v.Node.Platform.OS = platform.GetArchitecture(), platform.GetOs()
	v.Task.Slot = w.NodeID
	if w.Slot > 0 {
		v.Task.Slot = fmt.Sprint(w.Slot)
	}
	v.Task.ID = w.ID
	v.Task.Name = strings.Join([]string{w.ServiceName, v.Task.Slot, w.ID}, ".")
	return v
}

// Expand fills in the templates of a task spec: in the hostname, the
// environment, and sources and targets of mounts. The spec itself is not
// changed; one without templates is returned as it is. Errors are of class
// Invalid.
func Expand(spec *pb.TaskSpec, vars Vars) (*pb.TaskSpec, error) {
	if !templated(spec.GetContainer()) {
		return spec, nil
	}
	spec = proto.CloneOf(spec)
	c := spec.GetContainer()
	e := expander{vars: vars}
	c.Hostname = e.expand("hostname", c.GetHostname())
	for i, env := range c.GetEnv() {
		name, _, _ := strings.Cut(env, "=")
		c.Env[i] = e.expand("env "+name, env)
	}
	for _, m := range c.GetMounts() {
		m.Source = e.expand("mount source", m.GetSource())
		m.Target = e.expand("mount target", m.GetTarget())
	}
	return spec, e.err
}

func templated(c *pb.ContainerSpec) bool {
	found := isTemplate(c.GetHostname())
	for _, env := range c.GetEnv() {
		found = found || isTemplate(env)
	}
	for _, m := range c.GetMounts() {
		found = found || isTemplate(m.GetSource()) || isTemplate(m.GetTarget())
	}
	return found
}

func isTemplate(s string) bool { return strings.Contains(s, "{{") }

// expander keeps the first error, so that callers read as a list of fields.
type expander struct {
	vars Vars
	err  error
}

func (e *expander) expand(what, text string) string {
	if !isTemplate(text) || e.err != nil {
		return text
	}
	t, err := template.New(what).Option("missingkey=zero").Funcs(template.FuncMap{"join": join}).Parse(text)
	if err != nil {
		e.fail(what, err)
		return text
	}
	var out strings.Builder
	if err := t.Execute(&out, e.vars); err != nil {
		e.fail(what, err)
	}
	return out.String()
}

func (e *expander) fail(what string, err error) {
	e.err = cmp.Or[error](e.err, fault.New(fault.Invalid, "template in %s: %w", what, err).
		WithTry("see minictl service create --help for what templates can name"))
}

// join puts the first string between the others, as Swarm's does.
func join(separator string, parts ...string) string { return strings.Join(parts, separator) }
