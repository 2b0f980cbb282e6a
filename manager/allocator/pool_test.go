package allocator

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
)

func poolOf(t testing.TB, subnet, gateway, part string) *pool {
	p, ok := newPool(&pb.AddressPool{Subnet: subnet, Gateway: gateway, IpRange: part})
	if !ok {
		t.Fatalf("%s is no pool", subnet)
	}
	return p
}

func TestPoolSizes(t *testing.T) {
	for _, c := range []struct {
		subnet, gateway, part string
		size                  uint64
		first                 string
	}{
		{"10.0.16.0/29", "10.0.16.1", "", 5, "10.0.16.2"},
		{"10.0.16.0/29", "10.0.16.6", "", 5, "10.0.16.1"},
		{"10.0.16.0/29", "", "", 6, "10.0.16.1"},
		{"10.0.0.0/12", "10.0.0.1", "", 1<<20 - 3, "10.0.0.2"},
		{"10.0.16.0/24", "10.0.16.1", "10.0.16.128/26", 64, "10.0.16.128"},
		{"10.0.16.0/24", "10.0.16.1", "10.0.16.0/26", 62, "10.0.16.2"},
		{"10.0.16.0/24", "10.0.16.200", "10.0.16.192/26", 62, "10.0.16.192"},
		{"10.0.16.0/30", "10.0.16.1", "", 1, "10.0.16.2"},
		{"10.0.16.0/31", "", "", 0, ""},
		{"10.0.16.0/32", "", "", 0, ""},
		{"fd00:1::/64", "fd00:1::1", "", maxPool - 1, "fd00:1::2"},
		{"fd00:1::/126", "fd00:1::1", "", 2, "fd00:1::2"},
		{"fd00::/8", "fd00::1", "", maxPool - 1, "fd00::2"},
		{"fd00:1::/64", "fd00:1::1", "fd00:1::f000:0:0:0/80", maxPool, "fd00:1::f000:0:0:0"},
	} {
		p := poolOf(t, c.subnet, c.gateway, c.part)
		first, ok := p.take()
		if p.size() != c.size || ok != (c.size > 0) || ok && first != netip.MustParseAddr(c.first) {
			t.Errorf("%s %s %s: %d addresses from %v, want %d from %s", c.subnet, c.gateway, c.part, p.size(), first, c.size, c.first)
		}
	}
	if _, ok := newPool(&pb.AddressPool{Subnet: "nowhere"}); ok {
		t.Error("nowhere is a pool")
	}
}

func TestPoolsAreCircles(t *testing.T) {
	p := poolOf(t, "10.0.0.0/29", "10.0.0.1", "")
	take := func(want string) {
		t.Helper()
		if a, _ := p.take(); a.String() != want {
			t.Errorf("took %v, want %s", a, want)
		}
	}
	take("10.0.0.2")
	take("10.0.0.3")
	p.release(netip.MustParseAddr("10.0.0.2"))
	take("10.0.0.4")
	take("10.0.0.5")
	take("10.0.0.6")
	take("10.0.0.2")
	if a, ok := p.take(); ok {
		t.Errorf("a full pool gave %v", a)
	}
	if p.release(netip.MustParseAddr("10.0.0.1")) || p.release(netip.MustParseAddr("10.0.0.7")) || p.release(netip.MustParseAddr("10.9.0.1")) {
		t.Error("what was never given was taken back")
	}
}

// A pool gives what a set of all its addresses would, none twice.
func TestPoolAgainstSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(23, 31).Draw(t, "bits")
		subnet := netip.PrefixFrom(netip.MustParseAddr("10.1.4.0"), bits).Masked()
		gateway := addrAt(subnet, uint64(rapid.IntRange(0, 1<<(32-bits)-1).Draw(t, "gateway")))
		p, _ := newPool(&pb.AddressPool{Subnet: subnet.String(), Gateway: gateway.String()})
		free, used := map[netip.Addr]bool{}, map[netip.Addr]bool{}
		for a := subnet.Addr().Next(); subnet.Contains(a.Next()); a = a.Next() {
			if a != gateway {
				free[a] = true
			}
		}
		if p.size() != uint64(len(free)) {
			t.Fatalf("%v has %d addresses, want %d", subnet, p.size(), len(free))
		}
		for range rapid.IntRange(0, 600).Draw(t, "steps") {
			a := addrAt(subnet, uint64(rapid.IntRange(0, 1<<(32-bits)-1).Draw(t, "address")))
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if p.release(a) != used[a] {
					t.Fatalf("release of %v, used %v", a, used[a])
				}
				if used[a] {
					delete(used, a)
					free[a] = true
				}
			case 1:
				p.mark(a)
				if free[a] {
					delete(free, a)
					used[a] = true
				}
			default:
				got, ok := p.take()
				if ok != (len(free) > 0) || ok && !free[got] {
					t.Fatalf("took %v, %v, with %d free", got, ok, len(free))
				}
				if ok {
					delete(free, got)
					used[got] = true
				}
			}
			if p.used != uint64(len(used)) {
				t.Fatalf("%d count as used, want %d", p.used, len(used))
			}
		}
	})
}

func TestPrefixesAgainstList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, list := newPrefixes(), map[netip.Prefix]map[string]bool{}
		draw := func(least int) netip.Prefix {
			bits := rapid.IntRange(least, 32).Draw(t, "bits")
			if rapid.IntRange(0, 4).Draw(t, "family") == 0 {
				return netip.PrefixFrom(addrAt(netip.MustParsePrefix("fd00::/64"), uint64(rapid.IntRange(0, 1<<16).Draw(t, "address"))), bits+96).Masked()
			}
			return netip.PrefixFrom(addrAt(netip.MustParsePrefix("10.0.0.0/8"), uint64(rapid.IntRange(0, 1<<16).Draw(t, "address"))), bits).Masked()
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			p, holder := draw(18), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "holder")
			if rapid.IntRange(0, 2).Draw(t, "step") > 0 {
				if set.add(p, holder) != (len(list[p]) == 0) {
					t.Fatalf("add %v", p)
				}
				if list[p] == nil {
					list[p] = map[string]bool{}
				}
				list[p][holder] = true
			} else {
				if set.remove(p, holder) != (list[p][holder] && len(list[p]) == 1) {
					t.Fatalf("remove %v", p)
				}
				delete(list[p], holder)
			}
			asked := draw(14)
			want := false
			for q, holders := range list {
				want = want || len(holders) > 0 && q.Overlaps(asked)
			}
			found, ok := set.overlapping(asked)
			if ok != want || ok && (!found.Overlaps(asked) || !list[found][set.holder(found)]) {
				t.Fatalf("%v overlaps %v of %v: %v, want %v", asked, found, list, ok, want)
			}
		}
	})
}
