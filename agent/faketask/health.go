package faketask

import (
	"context"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
)

// Probe implements task.Runtime.
func (r *Runtime) Probe(ctx context.Context, id string, _ []string) (int32, string, error) {
	c := r.begin("probe", id)
	if c == nil || r.phase(c) != task.Running {
		return 0, "", fault.New(fault.State, "test task %s: it is not running", id)
	}
	if err := sleep(ctx, c.behaviour.ProbeFor); err != nil {
		return 0, "", err
	}
	if err := r.try("probe", id, c.behaviour.ProbeErr); err != nil {
		return 1, err.Error(), nil
	}
	return 0, "ok", nil
}

// Serve implements task.Runtime.
func (r *Runtime) Serve(_ context.Context, id string) error { return r.lead("serve", id, true) }

// Withhold implements task.Runtime.
func (r *Runtime) Withhold(_ context.Context, id string) error { return r.lead("withhold", id, false) }

func (r *Runtime) lead(method, id string, open bool) error {
	c := r.begin(method, id)
	if c == nil {
		return notFound(id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.open = open
	return nil
}

// Open tells whether new connections are let to a task.
func (r *Runtime) Open(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	return c != nil && c.open && c.obs.Phase == task.Running
}
