package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/minid/minid/agent/task"
)

// Clear stops and removes all containers and logs of a node that leaves its
// cluster. The agent must not run.
func Clear(ctx context.Context, runtime task.Runtime) error {
	ids, err := runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	return destroy(ctx, runtime, ids)
}

// destroy stops and removes containers, all at the same time.
func destroy(ctx context.Context, runtime task.Runtime, ids []string) error {
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			errs[i] = runtime.Stop(ctx, id, "", task.DefaultGrace)
			if errs[i] == nil {
				errs[i] = runtime.Remove(ctx, id, false)
			}
			if errs[i] != nil {
				errs[i] = fmt.Errorf("remove container %s: %w", id, errs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
