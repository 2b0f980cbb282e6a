package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minid/minid/integration/cluster"
)

// clientPause is what each client waits between an answer and its next request:
// with five of them a light load, for the cluster shares its processors with
// everything else on the host.
const clientPause = 25 * time.Millisecond

// clients ask for a page from outside, one at each node, with a new connection
// each time.
type clients struct {
	stop func() // and wait; may be called again

	mu       sync.Mutex
	answered map[string]int // by version
	failed   int
	first    error
}

func (t *tour) startClients(ctx context.Context, nodes []*cluster.Node) *clients {
	ctx, cancel := context.WithCancel(ctx)
	c := &clients{answered: map[string]int{}}
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() {
			for ctx.Err() == nil {
				// A request that has begun is finished.
				c.note(t.get(context.WithoutCancel(ctx), pageAt(n)))
				time.Sleep(clientPause)
			}
		})
	}
	c.stop = func() {
		cancel()
		all.Wait()
	}
	return c
}

func (c *clients) note(body string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.answered[field(body, "version")]++
		return
	}
	if c.failed++; c.first == nil {
		c.first = err
	}
}

// String is what became of the requests, once the clients are stopped.
func (c *clients) String() string {
	total, by := c.failed, []string{}
	for _, version := range slices.Sorted(maps.Keys(c.answered)) {
		total += c.answered[version]
		by = append(by, fmt.Sprintf("%d answered by %s", c.answered[version], version))
	}
	return fmt.Sprintf("%d requests through all nodes: %s, %d failed", total, strings.Join(by, ", "), c.failed)
}
