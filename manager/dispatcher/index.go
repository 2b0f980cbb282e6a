package dispatcher

import (
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// index has all network items of the cluster, sorted by who has to know them. It
// is level-triggered: told what may have changed, it compares that with the view
// and works out what agents must hear, once for all of them. What a change costs
// depends on the nodes that hear of it, and on nothing else.
//
// Topics:
//
//	everybody   peers, published services, their backends, the ingress network
//	network     it, its services and endpoints, for nodes with tasks on it
//	lone        the endpoints of one node on a network of driver bridge
//	secured     the shared keys, for nodes with an encrypted network
type index struct {
	// view is what the index is made of.
	view      store.View
	everybody *topic
	networks  map[string]*topic
	lone      map[loneKey]*topic
	secured   *topic
	// placed are the tasks that items come from.
	placed map[string]placed
	// services are those with items; down the nodes that are.
	services map[string]*serviceItems
	down     map[string]bool
	port     uint32
	// of are the topics that each node is in.
	of map[string]map[*topic]bool
	// touched are the topics that publish has to look at.
	touched []*topic
}

// loneKey names one node's part of a network that reaches no other node.
type loneKey struct{ network, node string }

// placed is what the index has of a task.
type placed struct {
	node, service string
	networks      []string
	serving       bool
}

// serviceItems is what the index has of a service.
type serviceItems struct {
	networks []string
	// published services are counted: serving tasks by node.
	published bool
	serving   map[string]uint32
}

func newIndex() *index {
	return &index{
		everybody: newTopic(), secured: newTopic(),
		networks: map[string]*topic{}, lone: map[loneKey]*topic{},
		placed: map[string]placed{}, services: map[string]*serviceItems{},
		down: map[string]bool{}, of: map[string]map[*topic]bool{},
	}
}

// stale names what may have changed.
type stale struct {
	cluster                          bool
	nodes, networks, services, tasks []string
}

// everything names all that there is, or was.
func (x *index) everything(view store.View) stale {
	d := stale{cluster: true}
	for id := range x.down {
		d.nodes = append(d.nodes, id)
	}
	for n := range view.Nodes() {
		d.nodes = append(d.nodes, n.Id)
	}
	for id := range x.networks {
		d.networks = append(d.networks, id)
	}
	for n := range view.Networks() {
		d.networks = append(d.networks, n.Id)
	}
	for id := range x.services {
		d.services = append(d.services, id)
	}
	for s := range view.Services() {
		d.services = append(d.services, s.Id)
	}
	for id := range x.placed {
		d.tasks = append(d.tasks, id)
	}
	for t := range view.Tasks() {
		d.tasks = append(d.tasks, t.Id)
	}
	return d
}

// update brings the index to a view. What it finds is told by publish.
func (x *index) update(view store.View, d stale) {
	x.view = view
	if d.cluster {
		x.cluster(view.Cluster())
	}
	for _, id := range d.networks {
		x.network(id)
	}
	for _, id := range d.nodes {
		x.node(id)
	}
	for _, id := range d.services {
		x.service(id)
	}
	for _, id := range d.tasks {
		x.task(id)
	}
}

// publish tells every agent what it has to hear, and all of them what concerns
// everybody.
func (x *index) publish(tell func(node string, changes []*change), tellAll func(changes []*change)) {
	if len(x.everybody.changes) > 0 {
		tellAll(x.everybody.changes)
		x.everybody.settle()
	}
	for _, t := range x.touched {
		t.publish(tell)
		t.touched = false
		if t.empty() {
			x.forget(t)
		}
	}
	clear(x.touched)
	x.touched = x.touched[:0]
}

// forget drops a topic that nothing is left of.
func (x *index) forget(t *topic) {
	switch {
	case t == x.secured:
	case t.node != "":
		delete(x.lone, loneKey{t.network, t.node})
	default:
		delete(x.networks, t.network)
	}
}

// topic returns a network's, made when it is first needed.
func (x *index) topic(network string) *topic {
	t := x.networks[network]
	if t == nil {
		t = newTopic()
		t.network = network
		spec := x.view.Network(network).GetSpec()
		t.local, t.encrypted = spec.GetDriver() == pb.NetworkSpec_DRIVER_BRIDGE, spec.GetEncrypted()
		x.networks[network] = t
		x.touch(t)
	}
	return t
}

// endpoints returns the topic of a node's endpoints on a network.
func (x *index) endpoints(network, node string) *topic {
	shared := x.topic(network)
	if !shared.local {
		return shared
	}
	key := loneKey{network, node}
	t := x.lone[key]
	if t == nil {
		t = newTopic()
		t.network, t.node = network, node
		x.lone[key] = t
		x.touch(t)
	}
	return t
}

func (x *index) touch(t *topic) {
	if !t.touched && t != x.everybody {
		t.touched = true
		x.touched = append(x.touched, t)
	}
}

func (x *index) set(t *topic, key itemKey, item *pb.Assignment) {
	if t.set(key, item) {
		x.touch(t)
	}
}

func (x *index) join(t *topic, node string) {
	x.touch(t)
	if t.join(node) {
		if x.of[node] == nil {
			x.of[node] = map[*topic]bool{}
		}
		x.of[node][t] = true
	}
}

func (x *index) leave(t *topic, node string) {
	x.touch(t)
	if t.leave(node) {
		delete(x.of[node], t)
		if len(x.of[node]) == 0 {
			delete(x.of, node)
		}
	}
}

// snapshot is all that a node has to know.
func (x *index) snapshot(node string) []*pb.Assignment {
	var items []*pb.Assignment
	add := func(t *topic) {
		for _, item := range t.items {
			items = append(items, item)
		}
	}
	add(x.everybody)
	for t := range x.of[node] {
		add(t)
	}
	return items
}

func (x *index) cluster(c *pb.Cluster) {
	x.set(x.secured, keysKey, keysItem(c))
	if port := c.GetSpec().GetDataPathPort(); port != x.port {
		x.port = port
		for n := range x.view.Networks() {
			x.network(n.Id)
		}
	}
}

func (x *index) network(id string) {
	n := x.view.Network(id)
	var own, all *pb.Assignment
	if n.GetSpec().GetIngress() {
		all = networkItem(n, x.port)
	} else {
		own = networkItem(n, x.port)
	}
	x.set(x.topic(id), networkKey(id), own)
	x.set(x.everybody, networkKey(id), all)
}

// node follows a node's description, and what its being down means for its tasks.
func (x *index) node(id string) {
	n := x.view.Node(id)
	was, known := x.down[id]
	if n == nil {
		x.set(x.everybody, peerKey(id), nil)
		delete(x.down, id)
	} else {
		x.set(x.everybody, peerKey(id), peerItem(n))
		x.down[id] = isDown(n)
	}
	if !known || n == nil || was != x.down[id] {
		for t := range x.view.TasksByNode(id) {
			x.task(t.Id)
		}
	}
}

func (x *index) service(id string) {
	s := x.view.Service(id)
	was := x.services[id]
	if was == nil {
		was = &serviceItems{}
	}
	now := &serviceItems{published: len(s.GetEndpoint().GetPorts()) > 0, serving: was.serving}
	for _, on := range s.GetSpec().GetTask().GetNetworks() {
		now.networks = append(now.networks, on.GetNetworkId())
		x.set(x.topic(on.GetNetworkId()), serviceKey(id, on.GetNetworkId()), serviceItem(s, on))
	}
	for _, network := range was.networks {
		if !slices.Contains(now.networks, network) {
			x.set(x.topic(network), serviceKey(id, network), nil)
		}
	}
	x.set(x.everybody, publishedKey(id), publishedItem(s))
	if len(now.networks) == 0 && !now.published {
		delete(x.services, id)
	} else {
		x.services[id] = now
	}
	if now.published != was.published {
		x.recount(id, now)
	}
}

// recount counts the tasks of a service that begins or ends to be published.
func (x *index) recount(id string, now *serviceItems) {
	for node := range now.serving {
		x.set(x.everybody, backendKey(id, node), nil)
	}
	now.serving = map[string]uint32{}
	for t := range x.view.TasksByService(id) {
		if was, ok := x.placed[t.Id]; ok && was.serving && now.published {
			x.count(id, was.node, 1)
		}
		x.task(t.Id)
	}
}

// task follows a task from its placement to its end. Only tasks that are on a
// network, or of a published service, have a place in the index.
func (x *index) task(id string) {
	was, known := x.placed[id]
	t := x.view.Task(id)
	now, ok := x.place(t)
	switch {
	case !ok && !known, ok && known && now.serving == was.serving:
		return // nothing else of a task changes
	case ok:
		x.placed[id] = now
		for _, on := range t.Addresses {
			network := on.GetNetworkId()
			x.set(x.endpoints(network, now.node), endpointKey(id, network), endpointItem(t, on, now.serving))
		}
		if !known {
			x.move(now, x.join)
		}
	default:
		delete(x.placed, id)
		for _, network := range was.networks {
			x.set(x.endpoints(network, was.node), endpointKey(id, network), nil)
		}
		x.move(was, x.leave)
	}
	switch {
	case now.serving && !was.serving:
		x.count(now.service, now.node, 1)
	case was.serving && !now.serving:
		x.count(was.service, was.node, -1)
	}
}

// place tells what the index has to have of a task, if anything.
func (x *index) place(t *pb.Task) (placed, bool) {
	if t == nil || ended(t) || !assignable(t, t.NodeId) || t.NodeId == "" {
		return placed{}, false
	}
	s := x.services[t.ServiceId]
	if len(t.Addresses) == 0 && (s == nil || !s.published) {
		return placed{}, false
	}
	p := placed{node: t.NodeId, service: t.ServiceId, serving: isServing(t, x.isDown(t.NodeId))}
	for _, on := range t.Addresses {
		p.networks = append(p.networks, on.GetNetworkId())
	}
	return p, true
}

// isDown is of the node as it was last looked at, and not as the view has it:
// the change between the two is still to come.
func (x *index) isDown(node string) bool {
	down, known := x.down[node]
	return down || !known
}

// count changes the number of serving tasks of a published service on a node.
func (x *index) count(service, node string, by int) {
	s := x.services[service]
	if s == nil || !s.published {
		return
	}
	n := s.serving[node] + uint32(by)
	if n == 0 {
		delete(s.serving, node)
		x.set(x.everybody, backendKey(service, node), nil)
		return
	}
	s.serving[node] = n
	x.set(x.everybody, backendKey(service, node), backendItem(service, node, n))
}

// move lets a task's node join or leave the topics of the task's networks.
func (x *index) move(p placed, step func(t *topic, node string)) {
	for _, network := range p.networks {
		t := x.topic(network)
		step(t, p.node)
		if t.local {
			step(x.endpoints(network, p.node), p.node)
		}
		if t.encrypted {
			step(x.secured, p.node)
		}
	}
}
