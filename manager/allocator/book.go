package allocator

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// book is the store as the allocator sees it: the addresses of each network as
// circles, subnets and routes, and what waits for which of them. What a command
// in flight gives counts as given.
type book struct {
	networks map[string]*network
	nodes    map[string]*node
	// waiting tasks have no addresses yet; fresh are those of them that no pass
	// has looked at.
	waiting map[string]*entry
	fresh   []*entry
	// untold tasks may not have been told why they wait.
	untold []*entry
	// eased networks have addresses again, or another reason why not.
	eased []*network

	subnets *prefixes // of networks
	routes  *prefixes // of nodes
	// troubled networks say that something is wrong.
	troubled map[string]bool
	// from is where in a default pool the next free subnet can be at the earliest.
	from map[netip.Prefix]uint64
	// vni goes round like addresses do.
	vni uint32

	// What a pass has to look at.
	dirtyNetworks map[string]bool
	dirtyServices map[string]bool
	renumber      bool
	rekey         bool
	// portless services wait for a free published port.
	portless map[string]bool
	// flying are the objects with a command in flight.
	flying map[object]bool
	// chosen are the published ports in such commands.
	chosen  map[published]bool
	nextKey time.Time
}

// network is a network's addresses, and what waits for them.
type network struct {
	object *pb.Network
	held   []netip.Prefix
	// pools are as allocated, none before.
	pools    []*pool
	queue    []*entry
	services map[string]bool
	eased    bool
	// early is set when tasks queued up before there were pools.
	early bool
}

// node is what the allocator knows of a node.
type node struct {
	name   string
	number uint32
	routes []netip.Prefix
}

// entry is a task without addresses; flying while they are proposed, gone when
// it wants none any more.
type entry struct {
	task   *pb.Task
	flying bool
	gone   bool
	// problem is why it waits in a network's queue.
	problem string
}

// object names any object; the cluster stands for its keys.
type object struct {
	kind pb.Kind
	id   string
}

type published struct {
	protocol pb.PortConfig_Protocol
	port     uint32
}

func newBook(v store.View) *book {
	b := &book{
		networks: map[string]*network{}, nodes: map[string]*node{}, waiting: map[string]*entry{},
		subnets: newPrefixes(), routes: newPrefixes(), from: map[netip.Prefix]uint64{}, vni: firstVNI,
		dirtyNetworks: map[string]bool{}, dirtyServices: map[string]bool{}, portless: map[string]bool{}, troubled: map[string]bool{},
		flying: map[object]bool{}, chosen: map[published]bool{},
		renumber: true, rekey: true,
	}
	for n := range v.Nodes() {
		b.putNode(n)
	}
	for n := range v.Networks() {
		b.putNetwork(n)
		for addr := range v.Addresses(n.Id) {
			b.networks[n.Id].mark(addr)
		}
	}
	for s := range v.Services() {
		b.dirtyServices[s.Id] = true
	}
	for t := range v.Tasks() {
		b.putTask(t)
	}
	return b
}

// observe takes over changes.
func (b *book) observe(changes []store.Change) {
	for _, c := range changes {
		switch c.Kind {
		case pb.Kind_KIND_CLUSTER:
			b.rekey = true
			b.reconsider()
		case pb.Kind_KIND_NODE:
			if n, ok := c.New.(*pb.Node); ok && n != nil {
				b.putNode(n)
			} else {
				b.removeNode(c.ID)
			}
		case pb.Kind_KIND_NETWORK:
			if n, ok := c.New.(*pb.Network); ok && n != nil {
				b.putNetwork(n)
			} else {
				b.removeNetwork(c.ID)
			}
		case pb.Kind_KIND_SERVICE:
			old, _ := c.Old.(*pb.Service)
			s, _ := c.New.(*pb.Service)
			b.changeService(c.ID, old, s)
		case pb.Kind_KIND_TASK:
			old, _ := c.Old.(*pb.Task)
			t, _ := c.New.(*pb.Task)
			b.changeTask(c.ID, old, t)
		}
	}
}

func (b *book) putNode(n *pb.Node) {
	routes := routesOf(n)
	known := b.nodes[n.Id]
	if known == nil {
		known = &node{}
		b.nodes[n.Id] = known
		b.renumber = true
	}
	if known.number != n.MeshNumber && !b.flying[object{pb.Kind_KIND_NODE, n.Id}] {
		known.number = n.MeshNumber
		b.renumber = true
	}
	known.name = displayName(n)
	if !slices.Equal(known.routes, routes) {
		b.reroute(n.Id, known.routes, routes)
		known.routes = routes
	}
}

func displayName(n *pb.Node) string {
	if name := n.GetDescription().GetHostname(); name != "" {
		return name
	}
	return n.GetId()
}

func routesOf(n *pb.Node) []netip.Prefix {
	var routes []netip.Prefix
	for _, text := range n.GetDescription().GetRoutes() {
		if p, err := netip.ParsePrefix(text); err == nil && p.Bits() > 0 {
			routes = append(routes, p.Masked())
		}
	}
	return routes
}

// reroute takes over a node's routes. Networks may overlap them now, or not
// any more.
func (b *book) reroute(id string, old, routes []netip.Prefix) {
	changed := false
	for _, p := range old {
		changed = !slices.Contains(routes, p) && b.routes.remove(p, id) || changed
	}
	b.reconsider() // even if the route is still another node's: it is named
	for _, p := range routes {
		changed = b.routes.add(p, id) || changed
	}
	if !changed {
		return
	}
	clear(b.from)
	for id := range b.networks {
		b.dirtyNetworks[id] = true
	}
}

func (b *book) removeNode(id string) {
	if n := b.nodes[id]; n != nil {
		b.reroute(id, n.routes, nil)
		delete(b.nodes, id)
		b.renumber = true
	}
}

func (b *book) putNetwork(o *pb.Network) {
	n := b.networks[o.Id]
	if n == nil {
		n = &network{services: map[string]bool{}}
		b.networks[o.Id] = n
	}
	had := n.object
	n.object = o
	b.hold(n, subnetsOf(o))
	if len(n.pools) == 0 {
		for _, p := range o.GetAllocation().GetPools() {
			if pool, ok := newPool(p); ok {
				n.pools = append(n.pools, pool)
			}
		}
	}
	if o.GetSpec().GetVni() == 0 {
		b.vni = max(b.vni, o.GetAllocation().GetVni()+1)
	}
	if o.GetSpec().GetIngress() {
		b.renumber = true
	}
	if o.GetSpec().GetEncrypted() {
		b.rekey = true
	}
	if o.GetAllocation().GetProblem() != "" {
		b.troubled[o.Id] = true
	} else {
		delete(b.troubled, o.Id)
	}
	if had.GetAllocation() != o.GetAllocation() {
		b.ease(n)
	}
	b.dirtyNetworks[o.Id] = true
}

// hold makes subnets the network's, and no others.
func (b *book) hold(n *network, subnets []netip.Prefix) {
	for _, p := range n.held {
		if !slices.Contains(subnets, p) {
			b.subnets.remove(p, n.object.Id)
			clear(b.from)
		}
	}
	for _, p := range subnets {
		b.subnets.add(p, n.object.Id)
	}
	n.held = subnets
}

func (b *book) removeNetwork(id string) {
	n := b.networks[id]
	if n == nil {
		return
	}
	b.hold(n, nil)
	delete(b.networks, id)
	delete(b.dirtyNetworks, id)
	delete(b.troubled, id)
	b.reconsider()
}

// reconsider has troubled networks looked at again.
func (b *book) reconsider() { maps.Copy(b.dirtyNetworks, b.troubled) }

// ease lets what waits for a network try again.
func (b *book) ease(n *network) {
	if !n.eased {
		n.eased = true
		b.eased = append(b.eased, n)
	}
}

func (b *book) changeService(id string, old, s *pb.Service) {
	b.dirtyServices[id] = true
	if old.GetEndpoint() != s.GetEndpoint() {
		for _, v := range old.GetEndpoint().GetVips() {
			b.release(v.NetworkId, v.Addresses)
		}
		for _, v := range s.GetEndpoint().GetVips() {
			b.mark(v.NetworkId, v.Addresses)
		}
	}
	if len(b.portless) > 0 && old != nil && (s == nil || old.Spec != s.Spec) {
		for waiting := range b.portless {
			b.dirtyServices[waiting] = true
		}
	}
}

func (b *book) changeTask(id string, old, t *pb.Task) {
	had, has := store.TaskAddresses(old), store.TaskAddresses(t)
	if len(had) != len(has) {
		for _, a := range had {
			b.release(a.NetworkId, a.Addresses)
		}
		for _, a := range has {
			b.mark(a.NetworkId, a.Addresses)
		}
	}
	if t == nil {
		b.drop(id)
		return
	}
	b.putTask(t)
}

// putTask takes note of a task that needs addresses, or does no longer.
func (b *book) putTask(t *pb.Task) {
	if t.GetStatus().GetState() != pb.TaskState_TASK_STATE_NEW || t.DesiredState > pb.TaskState_TASK_STATE_RUNNING {
		b.drop(t.Id)
		return
	}
	if e := b.waiting[t.Id]; e != nil {
		e.task = t
		return
	}
	e := &entry{task: t}
	b.waiting[t.Id] = e
	b.fresh = append(b.fresh, e)
}

func (b *book) drop(id string) {
	if e := b.waiting[id]; e != nil {
		e.gone = true
		delete(b.waiting, id)
	}
}

func (b *book) mark(network string, addresses []string) {
	if n := b.networks[network]; n != nil {
		for _, text := range addresses {
			n.mark(readAddr(text))
		}
	}
}

// release makes addresses free, for whoever waits for them.
func (b *book) release(network string, addresses []string) {
	n := b.networks[network]
	if n == nil {
		return
	}
	for _, text := range addresses {
		if n.release(readAddr(text)) {
			b.ease(n)
		}
	}
}

// readAddr reads an address with or without a length.
func readAddr(text string) netip.Addr {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr()
	}
	addr, _ := netip.ParseAddr(text)
	return addr
}

func (n *network) mark(a netip.Addr) {
	for _, p := range n.pools {
		p.mark(a)
	}
}

func (n *network) release(a netip.Addr) bool {
	for _, p := range n.pools {
		if p.release(a) {
			return true
		}
	}
	return false
}

// full is the first pool that has no address left, nil if all have.
func (n *network) full() *pool {
	for _, p := range n.pools {
		if p.used >= p.size() {
			return p
		}
	}
	return nil
}

// take takes one address of each pool, or none.
func (n *network) take() ([]netip.Prefix, bool) {
	if len(n.pools) == 0 || n.full() != nil {
		return nil, false
	}
	taken := make([]netip.Prefix, len(n.pools))
	for i, p := range n.pools {
		addr, _ := p.take()
		taken[i] = netip.PrefixFrom(addr, p.subnet.Bits())
	}
	return taken, true
}
