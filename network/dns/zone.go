package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// zones are the names of all networks, by network id.
type zones map[string]*zone

// zone is what the names of one network lead to. Names are in lower case.
type zone struct {
	services map[string]*service // by id
	names    index[string]       // service names and aliases
	tasks    index[string]       // by handle of the task's id
	owners   index[netip.Addr]   // whose task or VIP an address is
}

// index finds the services that have something, sorted by id, so that it does
// not depend on the order in which they came.
type index[K comparable] map[K][]*service

func (x index[K]) add(key K, s *service) {
	list := x[key]
	i, found := slices.BinarySearchFunc(list, s.ID, func(o *service, id string) int { return strings.Compare(o.ID, id) })
	if !found {
		x[key] = slices.Insert(list, i, s)
	}
}

func (x index[K]) remove(key K, s *service) {
	rest := slices.DeleteFunc(x[key], func(o *service) bool { return o == s })
	if len(rest) == 0 {
		delete(x, key)
		return
	}
	x[key] = rest
}

// service is a Service made ready for questions; it does not change.
type service struct {
	Service
	// name is lower case.
	name string
	// serving are the addresses of serving tasks.
	serving []netip.Addr
	// direct is what the service's name leads to.
	direct []netip.Addr
	// places tell the service's tasks apart in names: slot, or node.
	places []string
}

func newService(in Service) *service {
	s := &service{Service: in, name: strings.ToLower(in.Name), places: make([]string, len(in.Tasks))}
	for i, t := range in.Tasks {
		if t.Serving {
			s.serving = append(s.serving, t.Addresses...)
		}
		s.places[i] = strings.ToLower(t.Node)
		if t.Slot > 0 {
			s.places[i] = strconv.FormatUint(t.Slot, 10)
		}
	}
	s.direct = s.VIPs
	if len(s.VIPs) == 0 {
		s.direct = s.serving
	}
	return s
}

// handleLength is how much of an id is a task's host name, as with Docker.
const handleLength = 12

// handle is the part of a task's id that is known by both its forms.
func handle(id string) string { return strings.ToLower(id[:min(handleLength, len(id))]) }

func newZone(services map[string]Service) *zone {
	z := &zone{
		services: make(map[string]*service, len(services)),
		names:    make(index[string]), tasks: make(index[string]), owners: make(index[netip.Addr]),
	}
	for _, s := range services {
		z.put(s)
	}
	return z
}

// newZones makes all anew. A network without services is as one that is not there.
func newZones(networks map[string]map[string]Service) zones {
	zs := make(zones, len(networks))
	for id, services := range networks {
		if len(services) > 0 {
			zs[id] = newZone(services)
		}
	}
	return zs
}

// change puts and removes services of one network.
func (zs zones) change(network string, put []Service, remove []string) {
	z := zs[network]
	if z == nil {
		z = newZone(nil)
		zs[network] = z
	}
	for _, id := range remove {
		z.drop(id)
	}
	for _, s := range put {
		z.put(s)
	}
	if len(z.services) == 0 {
		delete(zs, network)
	}
}

func (z *zone) put(in Service) {
	z.drop(in.ID)
	s := newService(in)
	z.services[s.ID] = s
	z.each(s, z.names.add, z.tasks.add, z.owners.add)
}

func (z *zone) drop(id string) {
	s := z.services[id]
	if s == nil {
		return
	}
	delete(z.services, id)
	z.each(s, z.names.remove, z.tasks.remove, z.owners.remove)
}

// each calls for everything that a service is found by.
func (z *zone) each(s *service, name, task func(string, *service), owner func(netip.Addr, *service)) {
	name(s.name, s)
	for _, alias := range s.Aliases {
		name(strings.ToLower(alias), s)
	}
	for _, vip := range s.VIPs {
		owner(vip, s)
	}
	for _, t := range s.Tasks {
		task(handle(t.ID), s)
		for _, addr := range t.Addresses {
			owner(addr, s)
		}
	}
}

// addresses finds what a name stands for; an empty list is a name without any.
func (z *zone) addresses(name string) ([]netip.Addr, bool) {
	if list := z.names[name]; list != nil {
		return joined(list, func(s *service) []netip.Addr { return s.direct }), true
	}
	if rest, ok := strings.CutPrefix(name, "tasks."); ok && z.names[rest] != nil {
		return joined(z.names[rest], func(s *service) []netip.Addr { return s.serving }), true
	}
	if !strings.Contains(name, ".") {
		return z.byID(name)
	}
	for i := range len(name) {
		if name[i] != '.' {
			continue
		}
		if found, ok := z.ofService(z.names[name[:i]], name[i+1:]); ok {
			return found, true
		}
	}
	return nil, false
}

func joined(list []*service, part func(*service) []netip.Addr) []netip.Addr {
	if len(list) == 1 {
		return part(list[0])
	}
	var out []netip.Addr
	for _, s := range list {
		out = append(out, part(s)...)
	}
	return out
}

// byID finds a task by its id or the host name made of it.
func (z *zone) byID(name string) ([]netip.Addr, bool) {
	for _, s := range z.tasks[handle(name)] {
		for _, t := range s.Tasks {
			if id := strings.ToLower(t.ID); name == id || name == handle(id) {
				return t.Addresses, true
			}
		}
	}
	return nil, false
}

// ofService finds tasks by what follows their service's name: PLACE, which is a
// slot or node, or PLACE.TASK. An old and a new task of one slot are both there
// for a while: the one that serves has the name.
func (z *zone) ofService(list []*service, rest string) ([]netip.Addr, bool) {
	var serving, others []netip.Addr
	found := false
	for _, s := range list {
		for i, t := range s.Tasks {
			if s.isTask(i, rest) {
				return t.Addresses, true
			}
			if s.places[i] != rest {
				continue
			}
			found = true
			if t.Serving {
				serving = append(serving, t.Addresses...)
			} else {
				others = append(others, t.Addresses...)
			}
		}
	}
	if len(serving) > 0 {
		return serving, true
	}
	return others, found
}

// isTask tells whether PLACE.TASK names the i-th task. Global tasks have the id
// of their node there, which is not known here, so its place is not looked at.
func (s *service) isTask(i int, rest string) bool {
	dot := strings.LastIndexByte(rest, '.')
	if !strings.EqualFold(s.Tasks[i].ID, rest[dot+1:]) {
		return false
	}
	return s.Tasks[i].Slot == 0 || dot >= 0 && rest[:dot] == s.places[i]
}

// claims tells whether a name that leads to nothing still is of the cluster's
// form, so that it is nobody else's.
func (z *zone) claims(name string) bool {
	if head, slot, ok := cutLast(name); ok && z.names[head] != nil {
		_, err := strconv.ParseUint(slot, 10, 64)
		return err == nil
	}
	return false
}

func cutLast(name string) (head, tail string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return name, "", false
	}
	return name[:i], name[i+1:], true
}

// named finds the services of a name or alias.
func (z *zone) named(name string) ([]*service, bool) {
	list := z.names[name]
	return list, list != nil
}

// pointers are the names of an address: of a task its own, of a VIP its service's.
func (z *zone) pointers(addr netip.Addr) []string {
	var out []string
	for _, s := range z.owners[addr] {
		if slices.Contains(s.VIPs, addr) {
			out = append(out, s.Name)
		}
		for i, t := range s.Tasks {
			if slices.Contains(t.Addresses, addr) {
				out = append(out, s.Name+"."+dotted(s.places[i])+t.ID)
			}
		}
	}
	return out
}

// dotted is a label with its dot, nothing of none.
func dotted(label string) string {
	if label == "" {
		return ""
	}
	return label + "."
}
