package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/google/nftables"

	"github.com/minid/minid/network/nft"
)

// Balancer keeps the table of one namespace. Calls must not overlap.
type Balancer struct {
	netns   string
	session *nft.Session
	// image is what the table holds; nil if that must be looked up.
	image *image
	// generation of the namespace's rules when image was last known to be right.
	generation uint32
	stale      stale
	// led are the VIPs that led to a backend that they no longer lead to.
	led map[netip.Addr]map[netip.Addr]bool
	// blind is set while there may be flows from before the table noted any.
	blind atomic.Bool
}

// Open begins to keep the table minid_vip in the namespace at path netns; an
// empty one is the caller's own. A table that is there goes on as it is.
func Open(netns string) (*Balancer, error) {
	s, err := nft.Dial(netns)
	if err != nil {
		return nil, fmt.Errorf("open balancer: %w", err)
	}
	return &Balancer{netns: netns, session: s, stale: newStale(), led: make(map[netip.Addr]map[netip.Addr]bool)}, nil
}

// Close ends the work on the table, which stays and goes on working. It must be
// called before the namespace can end.
func (b *Balancer) Close() error {
	b.image = nil
	if err := b.session.CloseLasting(); err != nil {
		return fmt.Errorf("close balancer: %w", err)
	}
	return nil
}

// Set makes the table as wanted: it mends what others damaged and removes what
// is not wanted. Connections and what is right are not disturbed.
func (b *Balancer) Set(w Wanted) error {
	w, err := w.normal()
	if err != nil {
		return err
	}
	rebuild, err := b.look()
	if err != nil {
		return err
	}
	_, c := b.image.set(w, time.Now())
	return b.carryOut(c, rebuild)
}

// Change leads VIPs to other backends, and removes VIPs. Flows of UDP and ICMP to
// a backend that a VIP no longer leads to are stale; connections stay.
func (b *Balancer) Change(put Wanted, remove []netip.Addr) error {
	put, err := put.normal()
	if err != nil {
		return err
	}
	var rebuild *structure
	if b.image == nil {
		if rebuild, err = b.look(); err != nil {
			return err
		}
	}
	c := b.image.change(put, remove, time.Now())
	return b.carryOut(c, rebuild)
}

// Sweep removes what has been out of use for a second. It is to be called each
// second or so.
func (b *Balancer) Sweep() error {
	if b.image == nil {
		return nil
	}
	t := b.image.sweep(time.Now())
	return b.commit(nil, &t)
}

// Check reports whether the table is as it was left.
func (b *Balancer) Check() (bool, error) {
	if b.image == nil {
		return false, nil
	}
	generation, err := b.session.Generation()
	if err != nil {
		return false, err
	}
	if generation == b.generation {
		return true, nil
	}
	found, err := b.read()
	if err != nil {
		return false, err
	}
	if !found.intact || !found.image.equal(b.image) {
		b.image = nil
		return false, nil
	}
	b.generation = generation
	return true, nil
}

// look finds out what the table holds, unless nobody touched it since. A table
// that is not built as it must be is given back, to be built anew.
func (b *Balancer) look() (rebuild *structure, err error) {
	if b.image != nil {
		if g, err := b.session.Generation(); err == nil && g == b.generation {
			return nil, nil
		}
	}
	b.image = nil
	if _, err := b.session.Own(table()); err != nil {
		return nil, err
	}
	generation, err := b.session.Generation()
	if err != nil {
		return nil, err
	}
	found, err := b.read()
	if err != nil {
		return nil, err
	}
	b.generation = generation
	if !found.intact {
		b.image = newImage()
		return found, nil
	}
	b.image = found.image
	return nil, b.hasten()
}

// carryOut makes a change in its two transactions. When the table is built anew
// all is one transaction, so that there is no moment without.
func (b *Balancer) carryOut(c *change, rebuild *structure) error {
	b.note(c)
	if rebuild != nil {
		n, err := b.session.Flows()
		b.blind.Store(err != nil || n > 0)
		return errors.Join(b.commit(rebuild, &c.first, &c.second), b.hasten())
	}
	if err := b.commit(nil, &c.first); err != nil {
		return err
	}
	return b.commit(nil, &c.second)
}

// commit makes transactions, all at once. If that fails nobody knows what the
// table holds: the connection begins anew and the next call looks.
func (b *Balancer) commit(rebuild *structure, list ...*transaction) error {
	some := rebuild != nil
	for _, t := range list {
		some = some || !t.empty()
	}
	if !some {
		return nil
	}
	err := b.queue(rebuild, list)
	if err == nil {
		err = b.session.Flush()
	}
	if err == nil {
		b.generation++
		return nil
	}
	b.image = nil
	again, dialErr := nft.Dial(b.netns)
	if dialErr == nil {
		dialErr = b.session.CloseLasting()
		b.session = again
	}
	return fmt.Errorf("change table %s: %w", TableName, errors.Join(err, dialErr))
}

func (b *Balancer) queue(rebuild *structure, list []*transaction) error {
	s := b.session.Conn
	if rebuild != nil {
		if err := rebuild.queue(s); err != nil {
			return err
		}
	}
	for _, t := range list {
		for _, g := range t.newChains {
			addChain(s, g.chain())
		}
		if err := eachSet(t.delete, func(set *nftables.Set, list []nftables.SetElement) error {
			return nft.Delete(s, set, list)
		}); err != nil {
			return err
		}
		if err := eachSet(t.add, func(set *nftables.Set, list []nftables.SetElement) error {
			return nft.Add(s, set, list)
		}); err != nil {
			return err
		}
		for _, g := range t.oldChains {
			s.FlushChain(g.chain().kernel())
			s.DelChain(g.chain().kernel())
		}
	}
	return nil
}

func addChain(s *nftables.Conn, c chain) {
	k := s.AddChain(c.kernel())
	for _, r := range c.rules {
		s.AddRule(&nftables.Rule{Table: k.Table, Chain: k, Exprs: r.exprs})
	}
}

// eachSet calls f with the elements of each set that has any.
func eachSet(list []element, f func(*nftables.Set, []nftables.SetElement) error) error {
	var of [len(sets)][]nftables.SetElement
	for _, e := range list {
		i := e.set.id() - 1
		of[i] = append(of[i], e.kernel())
	}
	for i, s := range sets {
		if len(of[i]) == 0 {
			continue
		}
		if err := f(s.kernel(), of[i]); err != nil {
			return fmt.Errorf("elements of %s: %w", s.name(), err)
		}
	}
	return nil
}
