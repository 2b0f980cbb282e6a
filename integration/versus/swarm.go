package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/integration/cluster"
)

// service is what the stories tell of a service; both systems use their
// defaults for the rest.
type service struct {
	name     string
	replicas uint64
	global   bool
	// onWorkers keeps the tasks away from managers.
	onWorkers bool
	// env is what a rolling update changes, so many tasks at a time, each
	// watched for so long.
	env         string
	parallelism uint64
	monitor     time.Duration
}

func (s service) environment() []string {
	if s.env == "" {
		return nil
	}
	return []string{s.env}
}

// task is what the stories want to know of a task.
type task struct {
	node string
	// running also means that it should.
	running bool
}

// control is one node's API.
type control interface {
	create(ctx context.Context, s service) error
	update(ctx context.Context, s service) error
	remove(ctx context.Context, name string) error
	// tasks lists a service's tasks with their history.
	tasks(ctx context.Context, name string) ([]task, error)
	// updated tells whether the rolling update is over.
	updated(ctx context.Context, name string) (bool, error)
	// self tells the node's id and whether it leads.
	self(ctx context.Context) (id string, leads bool, err error)
}

// host is one machine of a swarm.
type host struct {
	*cluster.Node
	control
	id string
	// pid is that of dockerd or minid.
	pid func() int
}

// kill ends the daemon and nothing else.
func (h *host) kill() error { return unix.Kill(h.pid(), unix.SIGKILL) }

// swarm is a running cluster of one of the systems: managers first.
type swarm struct {
	hosts    []*host
	managers int
	// idle counts the processes before there was a service.
	idle  int
	close func()
}

// machines say what a swarm is to be made of.
type machines struct {
	*cluster.Cluster
	image             string
	managers, workers int
}

// machine makes the next one, with its run directory in memory as /run is.
func (m machines) machine() (*cluster.Node, error) {
	n, err := m.Prepare()
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", n.RunDir(), "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mount %s: %w", n.RunDir(), err)
	}
	return n, nil
}

// system makes swarms.
type system struct {
	name string
	boot func(ctx context.Context, m machines) ([]*host, error)
}

// start boots a swarm, waits until each node runs tasks, and with that has
// every node pull the image.
func (s system) start(ctx context.Context, w *world, managers, workers int) (*swarm, error) {
	c, stop, err := w.cluster()
	if err != nil {
		return nil, err
	}
	sw := &swarm{managers: managers, close: stop}
	if sw.hosts, err = s.boot(ctx, machines{c, w.image, managers, workers}); err == nil {
		err = sw.warmUp(ctx)
	}
	if err != nil {
		if w.keep {
			fmt.Fprintln(os.Stderr, "logs are kept in", c.Dir())
		}
		stop()
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	return sw, nil
}

func (sw *swarm) warmUp(ctx context.Context) error {
	for _, h := range sw.hosts {
		err := cluster.Await(ctx, time.Minute, func() (err error) {
			h.id, _, err = h.self(ctx)
			if err == nil && h.id == "" {
				err = fmt.Errorf("%s is in no cluster", h.Name)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	sw.idle = sw.processes()
	if err := sw.hosts[0].create(ctx, service{name: "warm", global: true}); err != nil {
		return err
	}
	if err := sw.awaitRunning(ctx, "warm", len(sw.hosts), time.Minute, nil); err != nil {
		return err
	}
	return sw.removeAll(ctx, "warm")
}

func (sw *swarm) processes() int {
	n := 0
	for _, h := range sw.hosts {
		n += len(h.Processes())
	}
	return n
}

// removeAll removes a service and waits until nothing is left of it: no
// container or shim on any machine, no task in the manager's list.
func (sw *swarm) removeAll(ctx context.Context, name string) error {
	via := sw.hosts[0]
	if err := via.remove(ctx, name); err != nil {
		return err
	}
	return cluster.Await(ctx, 3*time.Minute, func() error {
		if left := sw.processes() - sw.idle; left > 0 {
			return fmt.Errorf("%d processes are left", left)
		}
		list, err := via.tasks(ctx, name)
		if err == nil && len(list) > 0 {
			err = fmt.Errorf("%d tasks are left", len(list))
		}
		return err
	})
}

// awaitRunning waits until a manager that lives tells of want running tasks,
// none of them on a lost host.
func (sw *swarm) awaitRunning(ctx context.Context, name string, want int, within time.Duration, lost *host) error {
	return cluster.Await(ctx, within, func() error {
		var errs []error
		for _, h := range sw.alive(lost) {
			call, cancel := context.WithTimeout(ctx, 2*time.Second)
			list, err := h.tasks(call, name)
			cancel()
			running := 0
			for _, t := range list {
				if t.running && (lost == nil || t.node != lost.id) {
					running++
				}
			}
			if err == nil && running == want {
				return nil
			}
			if err == nil {
				err = fmt.Errorf("%d of %d tasks of %s run", running, want, name)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// alive lists the managers without a lost one.
func (sw *swarm) alive(lost *host) []*host {
	var list []*host
	for _, h := range sw.hosts[:sw.managers] {
		if h != lost {
			list = append(list, h)
		}
	}
	return list
}

func (sw *swarm) leader(ctx context.Context) (*host, error) {
	var found *host
	err := cluster.Await(ctx, time.Minute, func() error {
		for _, h := range sw.hosts[:sw.managers] {
			if _, leads, err := h.self(ctx); err == nil && leads {
				found = h
				return nil
			}
		}
		return errors.New("no manager leads")
	})
	return found, err
}

// resident is a process's resident memory in MB.
func resident(pid int) (float64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(fields[1], 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}
