package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	rtnl "github.com/vishvananda/netlink"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/netns"
)

// Config of an Overlay.
type Config struct {
	// RunDir keeps the networks' namespaces, which end together with the host.
	RunDir string
	Logger *slog.Logger
}

// Overlay makes the overlay networks of this node. Calls must not overlap.
type Overlay struct {
	cfg      Config
	host     *rtnl.Handle
	segments map[string]*segment
	peers    []netip.Addr
	port     uint16
	table    guard // as the kernel has it; nil: not known
	// generation of the host's rules when the table was last found right.
	generation uint32
}

const (
	// compareEvery is how often a network's entries are compared with what they
	// should be: to read tens of thousands costs a tenth of a second, and nobody
	// loses some of them by accident.
	compareEvery = 30 * time.Second
	// compareFor bounds how long one Check compares entries; the others are next.
	compareFor = 100 * time.Millisecond
)

// Open prepares for Set, which takes over what an earlier minid left.
func Open(cfg Config) (*Overlay, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(overlayDir(cfg.RunDir), 0o711); err != nil {
		return nil, fmt.Errorf("make directory of overlay networks: %w", err)
	}
	host, err := netns.Handle("")
	if err != nil {
		return nil, err
	}
	return &Overlay{cfg: cfg, host: host, segments: make(map[string]*segment)}, nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// Path of a network's namespace.
func (o *Overlay) Path(network string) string {
	return filepath.Join(overlayDir(o.cfg.RunDir), network)
}

// Set makes all networks as wanted. It looks at everything that is there, mends
// it and deletes what is not wanted. What fails hinders nothing else.
func (o *Overlay) Set(w Wanted) error {
	links := make(map[string][]Link, len(w.Networks))
	for _, l := range w.Links {
		links[l.Network] = append(links[l.Network], l)
	}
	var errs []error
	for id := range o.segments {
		if _, ok := w.Networks[id]; !ok {
			errs = append(errs, o.remove(id))
		}
	}
	errs = append(errs, o.removeStrays(w.Networks))
	for id, n := range w.Networks {
		s := o.expect(n, w.Remotes[id])
		clear(s.links)
		clear(s.local)
		for _, l := range links[id] {
			s.addLink(l)
		}
	}
	o.peers, o.port = slices.Clone(w.Peers), w.Port
	o.table = nil
	if err := o.setTable(); err != nil {
		return errors.Join(append(errs, err)...) // nothing is open that the table should guard
	}
	for _, id := range sortedKeys(w.Networks) {
		errs = append(errs, o.segments[id].set(o.host))
	}
	return errors.Join(errs...)
}

// expect takes in what a network should be.
func (o *Overlay) expect(n Network, remotes map[string]Remote) *segment {
	s := o.segments[n.ID]
	if s == nil {
		s = newSegment(n, remotes)
		s.path = o.Path(n.ID)
		o.segments[n.ID] = s
		return s
	}
	s.net = n
	s.setRemotes(remotes)
	return s
}

// SetNetwork makes one network, or makes it otherwise; its links stay.
func (o *Overlay) SetNetwork(n Network, remotes map[string]Remote) error {
	s := o.expect(n, remotes)
	if err := o.setTable(); err != nil {
		return err
	}
	return s.set(o.host)
}

// DropNetwork removes a network, with the links that it still has.
func (o *Overlay) DropNetwork(id string) error {
	if err := o.remove(id); err != nil {
		return err
	}
	return o.setTable()
}

func (o *Overlay) remove(id string) error {
	s := o.segments[id]
	if s == nil {
		s = newSegment(Network{ID: id}, nil)
		s.path = o.Path(id)
	}
	if err := s.remove(); err != nil {
		return fmt.Errorf("remove network %s: %w", id, err)
	}
	delete(o.segments, id)
	return nil
}

// removeStrays removes the networks that only an earlier minid knew.
func (o *Overlay) removeStrays(wanted map[string]Network) error {
	entries, err := os.ReadDir(overlayDir(o.cfg.RunDir))
	if err != nil {
		return fmt.Errorf("read overlay networks: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if _, ok := wanted[e.Name()]; !ok {
			errs = append(errs, o.remove(e.Name()))
		}
	}
	return errors.Join(errs...)
}

// Plug connects a task with a network, which must have been set. A task that is
// connected so already stays connected.
func (o *Overlay) Plug(l Link) error {
	s := o.segments[l.Network]
	if s == nil || s.handle == nil {
		return fault.New(fault.State, "plug task %s into network %s: the network is not set up on this node", l.Task, l.Network)
	}
	touched := s.addLink(l)
	have, err := s.handle.LinkByName(linkName(l.Task))
	if err != nil && !isGone(err) {
		return fmt.Errorf("find link of task %s: %w", l.Task, err)
	}
	var told error
	if err != nil {
		have, told = nil, s.announce(l.announced()) // before the task itself could hear it
	}
	return errors.Join(told, s.plug(l, have), s.programAll(slices.Values(touched)))
}

// Unplug disconnects a task from all its networks. When its namespace is gone
// the kernel takes the cables with it, soon and many at a time; to cut one here
// waits for all processors. Sweep cuts what it did not take.
func (o *Overlay) Unplug(task string) error {
	var errs []error
	for _, s := range o.segments {
		l, ok := s.links[task]
		if !ok {
			continue
		}
		touched := s.removeLink(task)
		if s.handle == nil {
			continue // Set will find that the link is not wanted
		}
		if netns.Exists(l.Netns) {
			errs = append(errs, s.unplug(task))
		} else {
			s.leaving[linkName(task)] = time.Now()
		}
		errs = append(errs, s.programAll(slices.Values(touched)))
	}
	return errors.Join(errs...)
}

// Sweep cuts the cables of tasks whose namespaces should be gone, but that a
// process is left in. It is to be called each second or so.
func (o *Overlay) Sweep() error {
	var errs []error
	for id, s := range o.segments {
		if err := s.sweep(time.Now()); err != nil {
			errs = append(errs, fmt.Errorf("sweep network %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// Change takes in tasks of other nodes that came, moved or went. A network that
// is not on this node is no error: it gets them when it is set.
func (o *Overlay) Change(network string, put map[string]Remote, remove []string) error {
	s := o.segments[network]
	if s == nil {
		return nil
	}
	var touched []netip.Addr
	for _, task := range remove {
		touched = append(touched, s.removeRemote(task)...)
	}
	for _, task := range sortedKeys(put) {
		touched = append(touched, s.putRemote(task, put[task])...)
	}
	if s.handle == nil {
		return fault.New(fault.State, "change network %s: it is not set up on this node", network)
	}
	return errors.Join(s.programAll(slices.Values(touched)), s.announce(s.announced(put)))
}

// SetPeers changes whom VXLAN is accepted from.
func (o *Overlay) SetPeers(peers []netip.Addr) error {
	o.peers = slices.Clone(peers)
	return o.setTable()
}

// Check reports whether the kernel still is as it should be; someone else may
// have flushed rules or deleted links. Tables and links are looked at each time,
// the entries of a network each half minute. The links' ends in the tasks are
// not looked at: they are the tasks' own.
func (o *Overlay) Check() (intact bool, err error) { return o.check(time.Now(), compareFor) }

func (o *Overlay) check(now time.Time, compareFor time.Duration) (intact bool, err error) {
	if intact, err = o.tableIntact(); !intact || err != nil {
		return false, err
	}
	var due []*segment
	for id, s := range o.segments {
		intact, err := s.linksIntact()
		if err != nil {
			return false, fmt.Errorf("check network %s: %w", id, err)
		}
		if !intact {
			return false, nil
		}
		if now.Sub(s.compared) >= compareEvery {
			due = append(due, s)
		}
	}
	began := time.Now()
	slices.SortFunc(due, func(a, b *segment) int { return a.compared.Compare(b.compared) })
	for _, s := range due {
		intact, err := s.entriesIntact()
		if err != nil {
			return false, fmt.Errorf("check network %s: %w", s.net.ID, err)
		}
		if !intact {
			return false, nil
		}
		s.compared = now
		if time.Since(began) >= compareFor {
			break
		}
	}
	return true, nil
}

// Destroy removes everything of this package from the kernel. The Overlay may
// be used on.
func (o *Overlay) Destroy() error {
	return errors.Join(o.Set(Wanted{}), o.deleteTable())
}

// Close lets go of the kernel and leaves it as it is.
func (o *Overlay) Close() {
	for _, s := range o.segments {
		if s.handle != nil {
			s.close()
		}
	}
	o.host.Close()
	clear(o.segments)
}
