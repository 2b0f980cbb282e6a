package vip

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

// stale is what flows of the past may be wrong about.
type stale struct {
	// gone: backends that a VIP no longer leads to. Flows without connections would
	// go on to them for as long as packets come; connections end with their backend.
	gone map[netip.Addr]map[netip.Addr]bool
	// ended: backends whose task has exited.
	ended map[netip.Addr]bool
	// fresh: VIPs that flows may have met when the table did not know them, and
	// that they bypass.
	fresh map[netip.Addr]bool
}

func newStale() stale {
	return stale{make(map[netip.Addr]map[netip.Addr]bool), make(map[netip.Addr]bool), make(map[netip.Addr]bool)}
}

func (s stale) empty() bool { return len(s.gone)+len(s.ended)+len(s.fresh) == 0 }

// note remembers what a change makes stale.
func (b *Balancer) note(c *change) {
	maps.Copy(b.stale.fresh, c.fresh)
	for vip, backends := range c.gone {
		for to := range backends {
			mark(b.stale.gone, vip, to)
			mark(b.led, to, vip)
		}
	}
}

func mark(sets map[netip.Addr]map[netip.Addr]bool, key, value netip.Addr) {
	if sets[key] == nil {
		sets[key] = make(map[netip.Addr]bool)
	}
	sets[key][value] = true
}

// families that have anything stale.
func (s stale) families() map[family]bool {
	out := make(map[family]bool)
	for addr := range s.gone {
		out[familyOf(addr)] = true
	}
	for _, list := range []map[netip.Addr]bool{s.ended, s.fresh} {
		for addr := range list {
			out[familyOf(addr)] = true
		}
	}
	return out
}

// Forget ends the connections with backends whose task has exited, once the
// function that Stale returns has run: the caller's next packet is led to another
// backend, which resets the connection at once.
func (b *Balancer) Forget(backends []netip.Addr) {
	for _, a := range backends {
		b.stale.ended[a] = true
	}
}

// Stale returns what deletes the flows that changes and Forget made wrong, nil if
// the task has none such. To look for them costs the kernel a walk through its
// whole table, so that is left to the caller: the function may run beside
// anything else, also after Close.
func (b *Balancer) Stale() func() error {
	s, ended := b.stale, b.stale.ended
	if s.empty() || b.image == nil {
		return nil
	}
	b.stale = newStale()
	defer maps.DeleteFunc(b.led, func(to netip.Addr, _ map[netip.Addr]bool) bool { return ended[to] })
	if n, err := b.session.Flows(); err == nil && n == 0 {
		b.blind.Store(false)
		return nil
	}
	if h, err := b.history(s); err == nil && !b.blind.Load() {
		s = h.narrow(s, b.led)
	}
	if s.empty() {
		return nil
	}
	return func() error {
		err := deleteFlows(b.netns, s)
		if err != nil {
			b.blind.Store(true)
		}
		return err
	}
}

// history is what packets noted.
type history struct {
	// met are the protocols by which flows went to a VIP, passed the addresses that
	// flows went to untranslated.
	met    map[netip.Addr][]uint8
	passed map[netip.Addr]bool
	// full are the sets that had no room for all.
	full map[set]bool
}

// history reads what matters to s. That it fails is no error: then everything
// may matter.
func (b *Balancer) history(s stale) (history, error) {
	h := history{make(map[netip.Addr][]uint8), make(map[netip.Addr]bool), make(map[set]bool)}
	families := s.families()
	for _, of := range sets {
		asked := of.kind == met && len(s.gone)+len(s.ended) > 0 || of.kind == passed && len(s.fresh) > 0
		if !asked || !families[of.family] {
			continue
		}
		list, err := b.session.GetSetElements(of.kernel())
		if err != nil {
			return h, fmt.Errorf("list elements of %s: %w", of.name(), err)
		}
		h.full[of] = len(list) >= maxMet
		for _, k := range list {
			if e, ok := parseElement(of, k); ok && of.kind == met {
				h.met[e.vip] = append(h.met[e.vip], e.proto)
			} else if ok {
				h.passed[e.vip] = true
			}
		}
	}
	return h, nil
}

// narrow leaves out what no flow can be wrong about. led are the VIPs that led to
// a backend before, as far as that is known.
func (h history) narrow(s stale, led map[netip.Addr]map[netip.Addr]bool) stale {
	out := newStale()
	for vip, backends := range s.gone {
		if h.full[set{met, familyOf(vip)}] || slices.ContainsFunc(h.met[vip], isConnectionless) {
			out.gone[vip] = backends
		}
	}
	for to := range s.ended {
		if h.full[set{met, familyOf(to)}] || h.mayHaveMet(to, led[to]) {
			out.ended[to] = true
		}
	}
	for vip := range s.fresh {
		if h.full[set{passed, familyOf(vip)}] || h.passed[vip] {
			out.fresh[vip] = true
		}
	}
	return out
}

// mayHaveMet reports whether a flow may have been led to a backend, by one of
// these VIPs or, if they are not known, by any.
func (h history) mayHaveMet(backend netip.Addr, vips map[netip.Addr]bool) bool {
	for vip := range h.met {
		if vips[vip] || vips == nil && familyOf(vip) == familyOf(backend) {
			return true
		}
	}
	return false
}

func isConnectionless(proto uint8) bool {
	return proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_SCTP
}

// isStale decides about a flow by its protocol, the address that the caller sent
// to and the one that answers.
func (s stale) isStale(proto uint8, to, from netip.Addr) bool {
	if to == from {
		return s.fresh[to]
	}
	return s.ended[from] || isConnectionless(proto) && s.gone[to][from]
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok && ok2 && s.isStale(flow.Forward.Protocol, to.Unmap(), from.Unmap())
}

// handshakeTime is how long, in seconds, the namespace remembers where it led a
// connection that nobody has answered: no longer than the caller waits before it
// repeats itself (RFC 6298: one second), so that every repetition is led anew, by
// what is known by then. A backend that does not answer costs a new connection
// that second, whether anybody knows of it or not.
const handshakeTime = "1"

// hasten sets that time for all that the task's namespace calls: what was not
// translated loses nothing by being forgotten.
func (b *Balancer) hasten() error {
	err := netns.Do(b.netns, func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_syn_sent", []byte(handshakeTime), 0)
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("shorten memory of unanswered connections: %w", err)
	}
	return nil
}

// deleteFlows deletes what is stale in the namespace at path, which may be gone.
func deleteFlows(path string, s stale) error {
	if path != "" && !netns.Exists(path) {
		return nil
	}
	h, err := netns.Handle(path, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("delete flows: %w", err)
	}
	defer h.Close()
	for f := range s.families() {
		af := netlink.InetFamily(unix.AF_INET)
		if f == ipv6 {
			af = unix.AF_INET6
		}
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, af, s)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete flows: %w", err)
		}
	}
	return nil
}
