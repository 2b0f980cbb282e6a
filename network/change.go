package network

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/minid/minid/network/dns"
	"github.com/minid/minid/network/mesh"
	"github.com/minid/minid/network/overlay"
	"github.com/minid/minid/network/vip"
)

// changes are what the parts of the data path have to be told.
type changes struct {
	remotes  map[string]*remoteChange // by network
	balances map[string]*vipChange    // by network
	zones    map[string]*zoneChange   // by network
	ports    portChange
	// gone are addresses of tasks that ended, by network: connections to them
	// are over.
	gone map[string][]netip.Addr
}

type remoteChange struct {
	put    map[string]overlay.Remote
	remove []string
}

type vipChange struct {
	put    vip.Wanted
	remove []netip.Addr
}

type zoneChange struct {
	put    []dns.Service
	remove []string
}

type portChange struct {
	put    map[mesh.Published]mesh.Service
	remove []mesh.Published
}

// changes works out what the dirty parts should be now. Networks that no task
// of this node is on are left out: nothing of them is in the kernel.
func (s *State) changes(d Dirty) changes {
	c := changes{
		remotes: map[string]*remoteChange{}, balances: map[string]*vipChange{}, zones: map[string]*zoneChange{},
		ports: s.portChange(d), gone: map[string][]netip.Addr{},
	}
	for network, tasks := range d.Endpoints {
		if s.Used(network) {
			c.remotes[network] = s.remoteChange(s.networks[network], tasks)
		}
	}
	for network, services := range d.Services {
		if s.Used(network) {
			c.zones[network] = s.zoneChange(s.networks[network], services)
		}
	}
	for network := range union(d.Services, d.goneVIPs) {
		if s.Used(network) {
			c.balances[network] = s.vipChange(s.networks[network], d.Services[network], d.goneVIPs[network])
		}
	}
	for network, addrs := range d.goneTasks {
		if s.Used(network) {
			if free := s.networks[network].free(addrs); len(free) > 0 {
				c.gone[network] = free
			}
		}
	}
	return c
}

// free are those addresses that no task has by now: connections to one that has
// a new task are the new task's.
func (seg *segment) free(addrs map[netip.Addr]bool) (out []netip.Addr) {
	for addr := range addrs {
		if seg.holders[addr.String()] == 0 {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func union[A, B any](a map[string]A, b map[string]B) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

func (s *State) remoteChange(seg *segment, tasks map[string]bool) *remoteChange {
	c := &remoteChange{put: map[string]overlay.Remote{}}
	for _, id := range slices.Sorted(maps.Keys(tasks)) {
		if r, ok := s.remote(seg.endpoints[id], seg.assigned.GetSpec().GetEncrypted()); ok {
			c.put[id] = r
		} else {
			c.remove = append(c.remove, id)
		}
	}
	return c
}

func (s *State) vipChange(seg *segment, services map[string]bool, gone map[netip.Addr]bool) *vipChange {
	c := &vipChange{put: vip.Wanted{}}
	for service := range services {
		s.balance(seg, service, c.put)
	}
	for addr := range gone {
		if _, stays := c.put[addr]; stays {
			continue
		}
		if owner, taken := seg.ownerOf(addr.String()); taken {
			s.balance(seg, owner, c.put)
		} else {
			c.remove = append(c.remove, addr)
		}
	}
	slices.SortFunc(c.remove, netip.Addr.Compare)
	return c
}

func (s *State) zoneChange(seg *segment, services map[string]bool) *zoneChange {
	c := &zoneChange{}
	for _, service := range slices.Sorted(maps.Keys(services)) {
		if z, ok := s.zone(seg, service); ok {
			c.put = append(c.put, z)
		} else {
			c.remove = append(c.remove, service)
		}
	}
	return c
}

func (s *State) portChange(d Dirty) portChange {
	c := portChange{put: map[mesh.Published]mesh.Service{}}
	for service := range d.Published {
		s.publish(service, c.put)
	}
	for port := range d.unpublished {
		if _, stays := c.put[port]; stays {
			continue
		}
		if owner, taken := s.ownerOf(port); taken {
			s.publish(owner, c.put)
		} else {
			c.remove = append(c.remove, port)
		}
	}
	slices.SortFunc(c.remove, func(a, b mesh.Published) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return c
}

// ownerOf finds the service that has a port now. It may have been told of before
// the one that gave the port up.
func (s *State) ownerOf(port mesh.Published) (service string, taken bool) {
	for id, v := range s.published {
		for _, p := range v.GetPorts() {
			if publishedKey(p) == port {
				return id, true
			}
		}
	}
	return "", false
}

// ownerOf finds the service that has a virtual address now.
func (seg *segment) ownerOf(vip string) (service string, taken bool) {
	for id, v := range seg.services {
		if slices.Contains(v.GetVips(), vip) {
			return id, true
		}
	}
	return "", false
}
