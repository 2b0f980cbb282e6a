package mesh

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/nft"
)

// Config of a Mesh.
type Config struct {
	Logger *slog.Logger
	// Bridge is the name of the node-local bridge, where the tasks are.
	Bridge string
}

// Mesh is the routing mesh of this network namespace. Calls must not overlap.
type Mesh struct {
	cfg   Config
	state state
	// wanted is what was last asked for.
	wanted Wanted
	image  *image
	// session to nftables, nil when there is none.
	session *nft.Session
	// generation of the rules that is known to hold the image; 0: none.
	generation uint32
	// patient is set once the kernel turned out to know no timeouts of a table's
	// own.
	patient bool
}

// base is the wanted one, as far as the kernel can do it.
func (m *Mesh) base(w Wanted) base {
	b := w.base()
	b.patient = m.patient
	return b
}

// state is what is known of the kernel.
type state byte

const (
	// unknown: anything may be there.
	unknown state = iota
	// absent: nothing of this package's is there.
	absent
	// present: what is there is in the image.
	present
)

// Open prepares a Mesh; the kernel stays as it is until Set or Destroy.
func Open(cfg Config) (*Mesh, error) {
	if cfg.Bridge == "" {
		return nil, errors.New("open routing mesh: no name of the node-local bridge")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Mesh{cfg: cfg, image: newImage()}, nil
}

// Set makes the whole mesh as wanted. Only differences to what it last made cost
// kernel calls, unless that is not known or Check found it broken: then
// everything is looked at and the tables are loaded anew, in one transaction,
// which established connections outlive. Services that cannot be had are an
// error, but the others work.
func (m *Mesh) Set(w Wanted) error {
	if err := w.check(); err != nil {
		return err
	}
	w.Services, w.Peers = maps.Clone(w.Services), maps.Clone(w.Peers)
	if w.Services == nil {
		w.Services = make(map[Published]Service)
	}
	var err error
	if m.state != present || m.wanted.base() != w.base() {
		err = m.rebuild(w)
	} else {
		samePeers := maps.Equal(m.wanted.Peers, w.Peers)
		before := m.wanted.Peers
		m.wanted = w
		if !samePeers {
			err = m.followPeers(before)
		}
		if err == nil {
			err = m.apply(m.image.set(w, time.Now()))
		}
	}
	return m.result(errors.Join(err, w.checkServices()), err != nil)
}

// rebuild makes everything anew, whatever is there.
func (m *Mesh) rebuild(w Wanted) error {
	m.state, m.wanted = unknown, w
	if _, err := m.links(true); err != nil {
		return err
	}
	img := imageOf(w)
	if err := m.load(img); err != nil {
		return err
	}
	m.image, m.state = img, present
	m.cfg.Logger.Info("routing mesh is set up", "number", w.Number, "peers", len(w.Peers), "ports", len(img.services))
	fresh := make(map[Published]bool)
	for p := range img.services {
		fresh[p] = true
	}
	return forget(stale{fresh: fresh})
}

// result makes the next Set look at everything if something failed.
func (m *Mesh) result(err error, failed bool) error {
	if failed {
		m.state = unknown
		m.disconnect()
	}
	return err
}

// ready tells whether a change can be made; without a mesh there is none to make.
func (m *Mesh) ready() (bool, error) {
	if m.state == unknown {
		return false, fault.New(fault.State, "change routing mesh: it has to be set first")
	}
	return m.state == present, nil
}

// Change puts and removes published ports.
func (m *Mesh) Change(put map[Published]Service, remove []Published) error {
	if ok, err := m.ready(); !ok {
		return err
	}
	named := make([]Published, 0, len(put)+len(remove))
	for _, p := range remove {
		if _, stays := put[p]; !stays {
			delete(m.wanted.Services, p)
			named = append(named, p)
		}
	}
	maps.Copy(m.wanted.Services, put)
	named = slices.AppendSeq(named, maps.Keys(put))
	err := m.apply(m.image.change(m.wanted, named, time.Now()))
	refused := Wanted{Services: put}.checkServices()
	return m.result(errors.Join(err, refused), err != nil)
}

// SetPeers replaces the other nodes, by number. Connections to those that are
// gone are forgotten, so their clients learn at once.
func (m *Mesh) SetPeers(peers map[uint32]netip.Addr) error {
	if ok, err := m.ready(); !ok {
		return err
	}
	before := m.wanted.Peers
	if maps.Equal(before, peers) {
		return nil
	}
	m.wanted.Peers = maps.Clone(peers)
	err := m.followPeers(before)
	return m.result(err, err != nil)
}

// followPeers makes links and tables follow the peers, which were others before.
func (m *Mesh) followPeers(before map[uint32]netip.Addr) error {
	if _, err := m.links(true); err != nil {
		return err
	}
	moved := make(map[uint32]bool)
	var gone []netip.Addr
	for number := range before {
		if _, stays := m.wanted.Peers[number]; !stays {
			moved[number] = true
			gone = append(gone, NodeAddr(m.wanted.Subnet, number, m.wanted.Number))
		}
	}
	for number := range m.wanted.Peers {
		if _, known := before[number]; !known {
			moved[number] = true
		}
	}
	var named []Published
	for p, s := range m.wanted.Services {
		for number := range s.Nodes {
			if moved[number] {
				named = append(named, p)
				break
			}
		}
	}
	c := m.image.change(m.wanted, named, time.Now())
	m.image.setNodes(c, m.wanted)
	if err := m.apply(c); err != nil {
		return err
	}
	return m.Forget(gone)
}

// apply commits a change in its two phases, then lets go of what conntrack
// remembers that it contradicts.
func (m *Mesh) apply(c *change) error {
	for _, t := range []transaction{c.first, c.second} {
		if err := m.commit(t); err != nil {
			return err
		}
	}
	return forget(stale{fresh: c.fresh, left: c.left})
}

// Sweep deletes what Change has put out of use, once a second has passed.
func (m *Mesh) Sweep() error {
	if m.state != present {
		return nil
	}
	err := m.commit(m.image.sweep(time.Now()))
	return m.result(err, err != nil)
}

// Forget ends the connections of tasks that have ended, by their addresses: what
// a client sends next is led elsewhere, and answered by a reset. Until then, and
// for a second at least, a task that Change has taken out still gets what other
// nodes send to this one.
func (m *Mesh) Forget(local []netip.Addr) error {
	ended := make(map[netip.Addr]bool, len(local))
	for _, addr := range local {
		ended[addr] = true
	}
	if m.state == present {
		if err := m.commit(m.image.end(ended, time.Now())); err != nil {
			return m.result(err, true)
		}
	}
	return forget(stale{ended: ended})
}

// Check reports whether the kernel still is as it was left. If not, the next Set
// makes everything anew.
func (m *Mesh) Check() (bool, error) {
	if m.state == absent {
		return !linkExists(), nil
	}
	if m.state != present {
		return false, nil
	}
	intact, err := m.links(false)
	if err == nil && intact {
		intact, err = m.tables()
	}
	if err != nil {
		m.disconnect()
	}
	if err != nil || !intact {
		m.state = unknown
	}
	return intact && err == nil, err
}

// Destroy removes the mesh from the kernel.
func (m *Mesh) Destroy() error {
	if m.state == absent && !linkExists() {
		return nil
	}
	m.state = unknown
	m.image, m.wanted = newImage(), Wanted{}
	if err := errors.Join(removeLinks(), m.unload()); err != nil {
		return fmt.Errorf("remove routing mesh: %w", err)
	}
	m.disconnect()
	m.state = absent
	return nil
}
