package main

import (
	"context"
	"errors"
	"fmt"
	"github.com/minid/minid/integration/cluster"
	"sync"
	"time"
)

// story is told to both systems in turns; each time on machines made for it.
type story struct {
	managers, workers int
	// slow stories are told once.
	slow bool
	// rows are what it measures, in the order of tell's results.
	rows []*row
	tell func(ctx context.Context, sw *swarm) ([]float64, error)
}

func stories() []story {
	return []story{
		{managers: 1, rows: []*row{
			{id: "start", title: "100 replicas on one node, image present: created → all running", unit: "s", ratio: 5, most: 6},
			{id: "stop", title: "100 replicas removed → processes and tasks gone", unit: "s"},
		}, tell: hundred},
		{managers: 1, rows: []*row{
			{id: "update", title: "rolling update of 10 replicas, parallelism 2, new tasks not watched → complete", unit: "s"},
		}, tell: rollingUpdate(time.Millisecond)},
		{managers: 1, slow: true, rows: []*row{
			{id: "watched", title: "the same with new tasks watched for 5 s: Swarm the last ones, minid each batch → complete", unit: "s"},
		}, tell: rollingUpdate(5 * time.Second)},
		{managers: 1, rows: []*row{
			{id: "memory", title: "resident memory of an idle manager and worker, without containerd", unit: "MB", most: 60},
		}, tell: idleMemory},
		{managers: 1, workers: 2, slow: true, rows: []*row{
			{id: "worker", title: "worker lost → replacement running", unit: "s", most: 8},
		}, tell: workerLost},
		{managers: 3, slow: true, rows: []*row{
			{id: "leader", title: "leader killed → writes accepted", unit: "s", most: 2},
		}, tell: leaderLost},
		{managers: 3, slow: true, rows: []*row{
			{id: "host", title: "leader's host lost → its tasks replaced", unit: "s", most: 10},
		}, tell: leaderHostLost},
	}
}

func since(began time.Time) float64 { return time.Since(began).Seconds() }

func hundred(ctx context.Context, sw *swarm) ([]float64, error) {
	const replicas = 100
	began := time.Now()
	if err := sw.hosts[0].create(ctx, service{name: "many", replicas: replicas}); err != nil {
		return nil, err
	}
	if err := sw.awaitRunning(ctx, "many", replicas, 5*time.Minute, nil); err != nil {
		return nil, err
	}
	started := since(began)
	began = time.Now()
	err := sw.removeAll(ctx, "many")
	return []float64{started, since(began)}, err
}

// rollingUpdate's time depends on the monitor period, the default of which is
// 5 s in both systems. Swarm waits for it once, at the end; minid after each
// batch, so that a version that fails soon is stopped after the first one
// (docs/adr/0009-rolling-update-in-batches.md).
func rollingUpdate(monitor time.Duration) func(context.Context, *swarm) ([]float64, error) {
	return func(ctx context.Context, sw *swarm) ([]float64, error) {
		const replicas = 10
		s := service{name: "rolling", replicas: replicas, env: "V=1", parallelism: 2, monitor: monitor}
		via := sw.hosts[0]
		if err := via.create(ctx, s); err != nil {
			return nil, err
		}
		if err := sw.awaitRunning(ctx, s.name, replicas, time.Minute, nil); err != nil {
			return nil, err
		}
		s.env = "V=2"
		began := time.Now()
		if err := via.update(ctx, s); err != nil {
			return nil, err
		}
		err := cluster.Await(ctx, 5*time.Minute, func() error {
			done, err := via.updated(ctx, s.name)
			if err == nil && !done {
				err = errors.New("the update is under way")
			}
			return err
		})
		took := since(began)
		if err == nil { // complete means that all of them run
			err = sw.awaitRunning(ctx, s.name, replicas, time.Second, nil)
		}
		return []float64{took}, err
	}
}

// idleMemory is taken some time after the node was made, when Go has returned
// what start-up needed as far as it is going to.
func idleMemory(ctx context.Context, sw *swarm) ([]float64, error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(15 * time.Second):
	}
	mb, err := resident(sw.hosts[0].pid())
	return []float64{mb}, err
}

func workerLost(ctx context.Context, sw *swarm) ([]float64, error) {
	const replicas = 4
	if err := sw.hosts[0].create(ctx, service{name: "spare", replicas: replicas, onWorkers: true}); err != nil {
		return nil, err
	}
	took, err := sw.lose(ctx, "spare", replicas, sw.hosts[len(sw.hosts)-1])
	return []float64{took}, err
}

func leaderHostLost(ctx context.Context, sw *swarm) ([]float64, error) {
	const replicas = 6
	if err := sw.hosts[0].create(ctx, service{name: "spare", replicas: replicas}); err != nil {
		return nil, err
	}
	leader, err := sw.leader(ctx)
	if err != nil {
		return nil, err
	}
	took, err := sw.lose(ctx, "spare", replicas, leader)
	return []float64{took}, err
}

// lose cuts the power of a host that runs tasks of the service and tells how
// long it takes until others run all of them.
func (sw *swarm) lose(ctx context.Context, name string, replicas int, lost *host) (float64, error) {
	if err := sw.awaitRunning(ctx, name, replicas, time.Minute, nil); err != nil {
		return 0, err
	}
	list, err := sw.hosts[0].tasks(ctx, name)
	if err != nil {
		return 0, err
	}
	there := 0
	for _, t := range list {
		if t.node == lost.id {
			there++
		}
	}
	if there == 0 {
		return 0, fmt.Errorf("no task of %s is on %s", name, lost.Name)
	}
	// Both systems count from the last heartbeat: not right after the start.
	time.Sleep(3 * time.Second)
	began := time.Now()
	lost.PowerOff()
	err = sw.awaitRunning(ctx, name, replicas, 5*time.Minute, lost)
	return since(began), err
}

// leaderLost asks every other manager for a write until one accepts.
func leaderLost(ctx context.Context, sw *swarm) ([]float64, error) {
	leader, err := sw.leader(ctx)
	if err != nil {
		return nil, err
	}
	time.Sleep(3 * time.Second) // followers have caught up
	began := time.Now()
	if err := leader.kill(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("no write was accepted within 5 minutes"))
	defer cancel()
	accepted := make(chan time.Time, sw.managers)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	for i, h := range sw.alive(leader) {
		asking.Go(func() { writeUntilAccepted(ctx, h, i, accepted) })
	}
	select {
	case at := <-accepted:
		return []float64{at.Sub(began).Seconds()}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func writeUntilAccepted(ctx context.Context, h *host, asker int, accepted chan<- time.Time) {
	for try := 0; ctx.Err() == nil; try++ {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := h.create(call, service{name: fmt.Sprintf("write-%d-%d", asker, try)})
		cancel()
		if err == nil {
			accepted <- time.Now()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
