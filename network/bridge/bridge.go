package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/netns"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Config of a Bridge.
type Config struct {
	// DataDir keeps the pool that was chosen; RunDir the namespaces and what is
	// known of them, which end together with the host.
	DataDir, RunDir string
	// Pool of addresses; zero chooses one that the host's routes leave free.
	Pool   netip.Prefix
	Logger *slog.Logger
}

// Bridge is the node-local network of one node.
type Bridge struct {
	cfg Config

	mu     sync.Mutex
	kernel Kernel
	wanted map[string]Endpoint
	pool   pool
	// leaving are cables that the kernel is to take with the namespace of a task
	// that left, by name.
	leaving map[string]departure
}

// departure of a task, whose address is not free while its cable is there.
type departure struct {
	address netip.Addr
	since   time.Time
}

const (
	// checkEvery is how often the kernel is compared with what it should be.
	checkEvery = 5 * time.Second
	// sweepEvery is how often cables are looked for that should have gone.
	sweepEvery = time.Second
	// goneWithin is how long the kernel may take to remove a namespace; one that a
	// process is left in stays, but without its cable.
	goneWithin = 2 * time.Second
)

// Open takes over the network that an earlier minid left, or makes it.
func Open(cfg Config) (*Bridge, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bridge{cfg: cfg, wanted: make(map[string]Endpoint), leaving: make(map[string]departure)}
	if err := b.makeDirs(); err != nil {
		return nil, err
	}
	prefix, err := b.choosePool()
	if err != nil {
		return nil, err
	}
	b.pool = newPool(prefix)
	if err := b.recover(); err != nil {
		return nil, err
	}
	return b, b.set()
}

func (b *Bridge) makeDirs() error {
	for _, dir := range []string{b.stateDir(), b.netnsDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make network directory: %w", err)
		}
	}
	return nil
}

func (b *Bridge) stateDir() string           { return filepath.Join(b.cfg.RunDir, "bridge") }
func (b *Bridge) netnsDir() string           { return filepath.Join(b.cfg.RunDir, "netns") }
func (b *Bridge) netnsPath(id string) string { return filepath.Join(b.netnsDir(), id) }
func (b *Bridge) stateFile(id string) string { return filepath.Join(b.stateDir(), id+".json") }

// Run repairs what others break, until ctx ends; the network stays.
func (b *Bridge) Run(ctx context.Context) error {
	sweep, check := time.NewTicker(sweepEvery), time.NewTicker(checkEvery)
	defer sweep.Stop()
	defer check.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			err = b.sweep(time.Now())
		case <-check.C:
			err = b.Repair()
		}
		if err != nil {
			b.cfg.Logger.Error("node-local network is not repaired", "error", err)
		}
	}
}

// sweep makes the addresses free whose tasks' cables are gone, and cuts those
// that should be.
func (b *Bridge) sweep(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.leaving) == 0 {
		return nil
	}
	there, err := linkNames()
	if err != nil {
		return err
	}
	var errs []error
	for name, d := range b.leaving {
		if !there[name] || now.Sub(d.since) >= goneWithin {
			errs = append(errs, b.depart(name))
		}
	}
	return errors.Join(errs...)
}

// depart cuts a cable, if it is not cut yet, and makes its address free.
func (b *Bridge) depart(name string) error {
	d, ok := b.leaving[name]
	if !ok {
		return nil
	}
	if err := deleteLink(name); err != nil {
		return err
	}
	b.pool.free(d.address)
	delete(b.leaving, name)
	return nil
}

// Repair compares the kernel with what it should be and mends it.
func (b *Bridge) Repair() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	intact, err := b.kernel.Check()
	if err != nil || intact {
		return err
	}
	b.cfg.Logger.Warn("node-local network was changed by someone else; repairing it")
	b.kernel.Forget()
	return b.set()
}

// Wanted is what the kernel should look like now.
func (b *Bridge) Wanted() Wanted {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.want()
}

func (b *Bridge) want() Wanted {
	w := Wanted{Pool: b.pool.prefix, Tasks: make([]Endpoint, 0, len(b.wanted))}
	for _, t := range b.wanted {
		w.Tasks = append(w.Tasks, t)
	}
	return w
}

func (b *Bridge) set() error { return b.kernel.Set(b.want()) }

// Attach gives a task its namespace and address. One that has them keeps them.
func (b *Bridge) Attach(_ context.Context, id string) (netns string, addr netip.Addr, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.wanted[id]
	if !ok {
		if err := b.depart(hostLink(id)); err != nil {
			return "", netip.Addr{}, err
		}
		if t.Address, err = b.pool.take(); err != nil {
			return "", netip.Addr{}, err
		}
		t.ID, t.Netns = id, b.netnsPath(id)
		if err := b.save(t); err != nil {
			b.pool.free(t.Address)
			return "", netip.Addr{}, err
		}
		b.wanted[id] = t
	}
	if err := b.set(); err != nil {
		return "", netip.Addr{}, errors.Join(err, b.drop(t))
	}
	return t.Netns, t.Address, nil
}

// Publish makes host ports of mode host lead to the task, and returns all ports
// with those that were chosen. A port that is taken is an error of class InUse.
func (b *Bridge) Publish(_ context.Context, id string, ports []*pb.PortConfig) ([]*pb.PortConfig, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.wanted[id]
	if !ok {
		return nil, fault.New(fault.State, "publish ports of task %s: it is not in the network", id)
	}
	before := t
	t.Ports = nil
	taken := b.portsOfOthers(id)
	out := make([]*pb.PortConfig, len(ports))
	for i, p := range ports {
		out[i] = p
		if p.GetMode() == pb.PortConfig_MODE_INGRESS {
			continue
		}
		chosen, err := choosePort(p, before.Ports, taken)
		if err != nil {
			return nil, err
		}
		taken[hostPort{chosen.Protocol, chosen.Host}] = id
		t.Ports = append(t.Ports, chosen)
		out[i] = &pb.PortConfig{Protocol: p.Protocol, Target: p.Target, Published: uint32(chosen.Host), Mode: p.Mode}
	}
	if err := b.change(t); err != nil {
		return nil, errors.Join(err, b.change(before))
	}
	return out, nil
}

// Unpublish takes a task's host ports away.
func (b *Bridge) Unpublish(_ context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.wanted[id]
	if !ok || len(t.Ports) == 0 {
		return nil
	}
	t.Ports = nil
	return b.change(t)
}

// SetInternal keeps a task from opening connections to the outside, or lets it
// again. It lasts until Detach.
func (b *Bridge) SetInternal(id string, internal bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.wanted[id]
	if !ok {
		return fault.New(fault.State, "keep task %s inside: it is not in the network", id)
	}
	if t.Internal == internal {
		return nil
	}
	t.Internal = internal
	return b.change(t)
}

func (b *Bridge) change(t Endpoint) error {
	b.wanted[t.ID] = t
	return errors.Join(b.save(t), b.set())
}

// Detach removes a task from the network, with its namespace.
func (b *Bridge) Detach(_ context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.wanted[id]
	if !ok {
		return nil
	}
	return b.drop(t)
}

func (b *Bridge) drop(t Endpoint) error {
	delete(b.wanted, t.ID)
	if err := b.set(); err != nil {
		b.wanted[t.ID] = t // to be tried again
		return err
	}
	b.leaving[hostLink(t.ID)] = departure{t.Address, time.Now()}
	if err := os.Remove(b.stateFile(t.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget task's network: %w", err)
	}
	return nil
}

// Destroy removes the whole network: swarm leave, and tests.
func (b *Bridge) Destroy() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.kernel.Destroy()
	clear(b.wanted)
	clear(b.leaving)
	clear(b.pool.used)
	// Another cluster may need them again.
	return errors.Join(err, os.RemoveAll(b.stateDir()), os.RemoveAll(b.netnsDir()), b.makeDirs())
}

// saved is what a restart of minid needs of a task.
type saved struct {
	Address  netip.Addr `json:"address"`
	Ports    []Port     `json:"ports,omitempty"`
	Internal bool       `json:"internal,omitempty"`
}

func (b *Bridge) save(t Endpoint) error {
	data, err := json.Marshal(saved{Address: t.Address, Ports: t.Ports, Internal: t.Internal})
	if err != nil {
		return fmt.Errorf("encode task's network: %w", err)
	}
	name := b.stateFile(t.ID)
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		return fmt.Errorf("store task's network: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("store task's network: %w", err)
	}
	return nil
}

// recover reads which tasks are in the network. What belongs to no namespace is
// from before the host restarted, or half made.
func (b *Bridge) recover() error {
	entries, err := os.ReadDir(b.stateDir())
	if err != nil {
		return fmt.Errorf("read network state: %w", err)
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		var s saved
		data, err := os.ReadFile(b.stateFile(id))
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err != nil || !netns.Exists(b.netnsPath(id)) || !b.pool.prefix.Contains(s.Address) {
			_ = os.Remove(b.stateFile(id))
			continue
		}
		b.wanted[id] = Endpoint{ID: id, Netns: b.netnsPath(id), Address: s.Address, Ports: s.Ports, Internal: s.Internal}
		b.pool.keep(s.Address)
	}
	return b.removeStrays()
}

func (b *Bridge) removeStrays() error {
	entries, err := os.ReadDir(b.netnsDir())
	if err != nil {
		return fmt.Errorf("read namespaces: %w", err)
	}
	for _, e := range entries {
		if _, ok := b.wanted[e.Name()]; ok {
			continue
		}
		if err := netns.Remove(b.netnsPath(e.Name())); err != nil {
			return err
		}
	}
	return nil
}
