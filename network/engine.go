// Package network makes the tasks of a node reach each other, and the world
// them: it turns what the managers say into what the kernel should look like.
//
// State holds what is known, plan.go computes from it what each part of the data
// path should be, and Engine hands that to the parts:
//
//	bridge     a task's namespace, its way out, host ports
//	overlay    networks over all nodes            wireguard  their encryption
//	vip        a service's address in each task's namespace
//	mesh       published ports on every node      dns        names
//	gate       keeps new connections from a task that stops
//
// Every part takes its wanted state whole (Set) and repairs what others broke;
// a change is told piece by piece, and costs what it changes.
package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/dns"
	"github.com/minid/minid/network/gate"
	"github.com/minid/minid/network/mesh"
	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/overlay"
	"github.com/minid/minid/network/vip"
	"github.com/minid/minid/network/wireguard"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// sweepEvery is how often what has left the balancers is cleared away.
	sweepEvery = time.Second
	// checkEvery is how often the kernel is compared with what it should be.
	checkEvery = 5 * time.Second
	// checkTasksEvery is how long one round over all tasks' namespaces takes.
	checkTasksEvery = 10 * time.Second
)

// Config of an Engine.
type Config struct {
	// DataDir keeps keys and the bridge's pool; RunDir what ends with the host.
	DataDir, RunDir string
	Logger          *slog.Logger
}

// Engine is the network of one node.
type Engine struct {
	cfg       Config
	bridge    *bridge.Bridge
	overlay   *overlay.Overlay
	mesh      *mesh.Mesh
	dns       *dns.Server
	wireguard *wireguard.Device
	// wake has a value when there is something to apply, stale when flows may have
	// become wrong.
	wake, stale chan struct{}

	// kernel is held by whoever changes the kernel, and guards what is in it.
	kernel    sync.Mutex
	balancers map[string]*vip.Balancer // by task
	// made are the networks that the overlay has.
	made map[string]bool
	// broken parts are set whole, and again until that succeeds.
	broken map[string]error
	// ended are addresses of tasks whose connections by published ports are over.
	ended []netip.Addr
	// checked are the tasks that the present round of checks is through with.
	checked map[string]bool

	// mu guards state, which is only read and written for moments.
	mu    sync.Mutex
	state *State
	// told is set once the managers' word, or the disk's, is here: before that,
	// what is in the kernel stays.
	told bool
}

// Open takes over the network that an earlier minid left, or makes it.
func Open(cfg Config) (*Engine, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{
		cfg: cfg, wake: make(chan struct{}, 1), stale: make(chan struct{}, 1), state: NewState(""),
		balancers: map[string]*vip.Balancer{}, made: map[string]bool{}, broken: map[string]error{}, checked: map[string]bool{},
	}
	var err error
	if e.bridge, err = bridge.Open(bridge.Config{DataDir: cfg.DataDir, RunDir: cfg.RunDir, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	if e.overlay, err = overlay.Open(overlay.Config{RunDir: cfg.RunDir, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	if e.mesh, err = mesh.Open(mesh.Config{Bridge: bridge.LinkName, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	if e.wireguard, err = wireguard.Open(wireguard.Config{DataDir: cfg.DataDir, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	e.dns = dns.New(dns.Config{Logger: cfg.Logger})
	return e, e.recover()
}

// WireGuardKey is the public key of this node.
func (e *Engine) WireGuardKey() []byte { return e.wireguard.PublicKey() }

// Join begins a membership as the node with this id. One that is the same as
// before finds everything as it was.
func (e *Engine) Join(nodeID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state.Self = nodeID
}

// Replace is agent.Network's.
func (e *Engine) Replace(items []*pb.Assignment) {
	e.mu.Lock()
	e.state.Replace(items)
	e.told = true
	e.mu.Unlock()
	e.signal()
}

// Change is agent.Network's.
func (e *Engine) Change(put []*pb.Assignment, remove []*pb.AssignmentKey) {
	e.mu.Lock()
	for _, key := range remove {
		e.state.Remove(key)
	}
	for _, item := range put {
		e.state.Put(item)
	}
	e.mu.Unlock()
	e.signal()
}

func (e *Engine) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run applies what changes and repairs what breaks, until ctx ends; the network
// stays, but for the name server, whose sockets end with minid.
func (e *Engine) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { e.report("dns", e.dns.Run(ctx)) })
	parts.Go(func() { e.report("bridge", e.bridge.Run(ctx)) })
	parts.Go(func() { e.clearFlows(ctx) })
	defer func() { e.report("wireguard", e.wireguard.Close()) }()
	sweep, check := time.NewTicker(sweepEvery), time.NewTicker(checkEvery)
	defer sweep.Stop()
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
			e.apply()
		case <-sweep.C:
			e.sweep()
		case <-check.C:
			e.check()
		}
	}
}

func (e *Engine) report(part string, err error) {
	if err != nil {
		e.cfg.Logger.Error("a part of the network failed", "part", part, "err", err)
	}
}

// view calls f with the state, for a moment.
func (e *Engine) view(f func(*State)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(e.state)
}

// Attach gives a task its namespace and its interfaces. One that has them keeps them.
func (e *Engine) Attach(ctx context.Context, t *pb.TaskNetwork) (string, netip.Addr, error) {
	if err := e.known(t); err != nil {
		return "", netip.Addr{}, err
	}
	path, addr, err := e.bridge.Attach(ctx, t.GetTaskId())
	if err != nil {
		return "", netip.Addr{}, err
	}
	l := &Local{TaskNetwork: t, Netns: path, Address: addr}
	if err := e.save(l); err != nil {
		return "", netip.Addr{}, errors.Join(err, e.bridge.Detach(ctx, t.GetTaskId()))
	}
	e.kernel.Lock()
	defer e.kernel.Unlock()
	e.view(func(s *State) { s.Attach(l) })
	if err := e.plug(l); err != nil {
		return "", netip.Addr{}, err
	}
	e.flush()
	return path, addr, nil
}

// known refuses a task whose networks the managers did not tell of yet.
func (e *Engine) known(t *pb.TaskNetwork) (err error) {
	e.view(func(s *State) {
		for _, a := range t.GetAddresses() {
			if seg := s.networks[a.GetNetworkId()]; seg == nil || seg.assigned == nil {
				err = fault.New(fault.Unavailable, "connect to network %s: the managers did not send it to this node yet", a.GetNetworkId())
				return
			}
		}
	})
	return err
}

// Publish makes host ports of mode host lead to a task.
func (e *Engine) Publish(ctx context.Context, id string, ports []*pb.PortConfig) ([]*pb.PortConfig, error) {
	return e.bridge.Publish(ctx, id, ports)
}

// Serve lets new connections to a task whose process runs, as far as they come
// to this node for its service; the others hear of it from the managers.
func (e *Engine) Serve(_ context.Context, id string) error {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	var l *Local
	e.view(func(s *State) {
		s.Serve(id)
		s.Readmit(id)
		l = s.locals[id]
	})
	if l == nil {
		return fault.New(fault.State, "serve task %s: it is not in the network", id)
	}
	e.flush()
	return e.save(l)
}

func (e *Engine) withdraw(id string) *Local {
	var l *Local
	e.kernel.Lock()
	defer e.kernel.Unlock()
	e.view(func(s *State) {
		s.Withdraw(id)
		l = s.locals[id]
	})
	if l != nil {
		saved := *l
		saved.Withdrawn = true
		e.report("state", e.save(&saved))
		e.flush()
	}
	return l
}

// Unpublish takes a task whose process has ended out of everything that leads to it.
func (e *Engine) Unpublish(ctx context.Context, id string) error {
	if path := e.gated(id); path != "" {
		e.report("gate", gate.Shut(path)) // it may have ended by itself
	}
	l := e.withdraw(id)
	err := e.bridge.Unpublish(ctx, id)
	if l == nil {
		return err
	}
	e.kernel.Lock()
	defer e.kernel.Unlock()
	if l.Running {
		e.ended = append(e.ended, l.Address)
	}
	for _, a := range l.GetAddresses() {
		e.forget(a.GetNetworkId(), addrsOf(parsePrefixes(a.GetAddresses())))
	}
	e.flowsChanged()
	return err
}

func addrsOf(list []netip.Prefix) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, p := range list {
		out[i] = p.Addr()
	}
	return out
}

// Detach removes all that Attach and Publish made.
func (e *Engine) Detach(ctx context.Context, id string) error {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	// The namespace first, which takes the cables with it.
	err := errors.Join(e.dns.Close(id), e.closeBalancer(id), e.bridge.Detach(ctx, id), e.overlay.Unplug(id))
	if err != nil {
		return err
	}
	var l *Local
	e.view(func(s *State) {
		l = s.Local(id)
		s.Detach(id)
	})
	delete(e.checked, id)
	e.flush()
	if l != nil {
		e.dropUnused(l)
	}
	if err := os.Remove(e.file(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget task's networks: %w", err)
	}
	return nil
}

// Destroy removes everything from the kernel: the node left its cluster.
func (e *Engine) Destroy(ctx context.Context) error {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	var errs []error
	var locals map[string]*Local
	e.view(func(s *State) { locals = s.Locals() })
	for id := range locals {
		errs = append(errs, e.dns.Close(id), e.closeBalancer(id), e.bridge.Detach(ctx, id), e.overlay.Unplug(id))
	}
	errs = append(errs, e.wireguard.Set(nil), e.mesh.Destroy(), e.overlay.Destroy(), e.bridge.Destroy())
	for id := range locals {
		errs = append(errs, os.RemoveAll(e.file(id)))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state, e.told = NewState(""), false
	clear(e.made)
	clear(e.broken)
	return errors.Join(errs...)
}

func (e *Engine) dir() string           { return filepath.Join(e.cfg.RunDir, "network") }
func (e *Engine) file(id string) string { return filepath.Join(e.dir(), id+".json") }

// saved is what a restart of minid needs of a task.
type saved struct {
	Task      json.RawMessage `json:"task"`
	Address   netip.Addr      `json:"address"`
	Netns     string          `json:"netns"`
	Running   bool            `json:"running,omitempty"`
	Withdrawn bool            `json:"withdrawn,omitempty"`
}

func (e *Engine) save(l *Local) error {
	task, err := protojson.Marshal(l.TaskNetwork)
	if err != nil {
		return fmt.Errorf("encode task's networks: %w", err)
	}
	data, err := json.Marshal(saved{Task: task, Address: l.Address, Netns: l.Netns, Running: l.Running, Withdrawn: l.Withdrawn})
	if err != nil {
		return fmt.Errorf("encode task's networks: %w", err)
	}
	name := e.file(l.GetTaskId())
	if err := errors.Join(os.WriteFile(name+".new", data, 0o600), os.Rename(name+".new", name)); err != nil {
		return fmt.Errorf("store task's networks: %w", err)
	}
	return nil
}

// recover finds the tasks that an earlier minid left. What has no namespace is
// from before the host restarted, or half made.
func (e *Engine) recover() error {
	if err := os.MkdirAll(e.dir(), 0o711); err != nil {
		return fmt.Errorf("make network directory: %w", err)
	}
	entries, err := os.ReadDir(e.dir())
	if err != nil {
		return fmt.Errorf("read network state: %w", err)
	}
	for _, entry := range entries {
		id, ok := strings.CutSuffix(entry.Name(), ".json")
		if !ok {
			continue
		}
		l, err := e.load(id)
		if err != nil || !netns.Exists(l.Netns) {
			_ = os.Remove(e.file(id))
			continue
		}
		e.state.Attach(l)
	}
	e.state.Take()
	return nil
}

func (e *Engine) load(id string) (*Local, error) {
	data, err := os.ReadFile(e.file(id))
	if err != nil {
		return nil, err
	}
	var s saved
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	l := &Local{TaskNetwork: &pb.TaskNetwork{}, Netns: s.Netns, Address: s.Address, Running: s.Running, Withdrawn: s.Withdrawn}
	return l, protojson.Unmarshal(s.Task, l.TaskNetwork)
}
