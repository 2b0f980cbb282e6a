package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/minid/minid/fault"
)

// poolBits: 4093 tasks on a node.
const poolBits = 20

// choosePool takes the configured pool, the one chosen before, or the first
// /20 of 172.16/12 (from 172.30 on) and 192.168/16 that no route of the host
// overlaps. The choice is kept: tasks and firewalls know it.
func (b *Bridge) choosePool() (netip.Prefix, error) {
	if b.cfg.Pool.IsValid() {
		return b.cfg.Pool.Masked(), nil
	}
	name := filepath.Join(b.cfg.DataDir, "bridge-pool")
	data, err := os.ReadFile(name)
	if err == nil {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(string(data)))
		if err != nil {
			return prefix, fault.New(fault.State, "read %s: %w", name, err).WithTry("remove the file when no task runs")
		}
		return prefix, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, fmt.Errorf("read address pool: %w", err)
	}
	used, err := hostRoutes()
	if err != nil {
		return netip.Prefix{}, err
	}
	prefix, ok := freePool(used)
	if !ok {
		return prefix, fault.New(fault.State, "no address pool for tasks: the host's routes cover all private ranges")
	}
	if err := os.MkdirAll(b.cfg.DataDir, 0o711); err != nil {
		return prefix, fmt.Errorf("keep address pool: %w", err)
	}
	if err := os.WriteFile(name, []byte(prefix.String()+"\n"), 0o644); err != nil {
		return prefix, fmt.Errorf("keep address pool: %w", err)
	}
	return prefix, nil
}

func hostRoutes() ([]netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		if ok && ones > 0 {
			out = append(out, netip.PrefixFrom(addr, ones))
		}
	}
	return out, nil
}

// freePool is the first candidate that overlaps nothing in use.
func freePool(used []netip.Prefix) (netip.Prefix, bool) {
	for _, c := range []struct {
		first netip.Addr
		count uint32
	}{
		{netip.AddrFrom4([4]byte{172, 30, 0, 0}), 32},
		{netip.AddrFrom4([4]byte{172, 16, 0, 0}), 14 * 16},
		{netip.AddrFrom4([4]byte{192, 168, 0, 0}), 16},
	} {
		for i := range c.count {
			p := netip.PrefixFrom(addTo(c.first, i<<(32-poolBits)), poolBits)
			if !overlapsAny(p, used) {
				return p, true
			}
		}
	}
	return netip.Prefix{}, false
}

func overlapsAny(p netip.Prefix, list []netip.Prefix) bool {
	for _, u := range list {
		if u.Overlaps(p) {
			return true
		}
	}
	return false
}

func addTo(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	return netip.AddrFrom4(b)
}

// pool hands out addresses in a circle, so that one just given back, which
// others may still have in a cache or connection, is the last to be reused.
type pool struct {
	prefix netip.Prefix
	used   map[netip.Addr]bool
	next   uint32
}

func newPool(prefix netip.Prefix) pool {
	return pool{prefix: prefix.Masked(), used: make(map[netip.Addr]bool), next: 2}
}

// size is how many addresses the prefix has; the first, the second (gateway)
// and the last are not for tasks.
func (p *pool) size() uint32 { return 1 << (32 - p.prefix.Bits()) }

func (p *pool) take() (netip.Addr, error) {
	for range p.size() {
		n := p.next
		p.next++
		if n >= p.size()-1 {
			p.next = 2
			continue
		}
		if a := addTo(p.prefix.Addr(), n); !p.used[a] {
			p.used[a] = true
			return a, nil
		}
	}
	return netip.Addr{}, fault.New(fault.Unavailable, "no address left for the task: all of %s are in use on this node", p.prefix)
}

// keep marks an address as in use, and goes on behind the highest one.
func (p *pool) keep(a netip.Addr) {
	p.used[a] = true
	b, first := a.As4(), p.prefix.Addr().As4()
	if n := binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(first[:]); n >= p.next {
		p.next = n + 1
	}
}

func (p *pool) free(a netip.Addr) { delete(p.used, a) }
