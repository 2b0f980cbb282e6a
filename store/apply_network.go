package store

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (tx *txn) createNetwork(c *pb.CreateNetwork) error {
	spec := c.GetSpec()
	name := spec.GetName()
	switch {
	case c.GetId() == "" || name == "":
		return incomplete("create", "network")
	case tx.networksByName.Get(name) != nil || tx.networks.Get(c.Id) != nil:
		return nameTaken("network", name)
	case spec.Ingress && tx.ingress != "":
		other := tx.networks.Get(tx.ingress).GetSpec().GetName()
		return fault.New(fault.Exists, "create network %s: the cluster has an ingress network already, %s", name, other).
			WithTry("minictl network rm %s", other)
	}
	n := &pb.Network{Id: c.Id, Meta: tx.created(), Spec: spec}
	if err := tx.numbersFree("create", n); err != nil {
		return err
	}
	tx.putNetwork(n)
	return nil
}

// numbersFree refuses a network that was given or wants what is another's.
func (tx *txn) numbersFree(verb string, n *pb.Network) error {
	name := n.GetSpec().GetName()
	for _, p := range slices.Concat(n.GetSpec().GetPools(), n.GetAllocation().GetPools()) {
		subnet, err := netip.ParsePrefix(p.GetSubnet())
		if err != nil {
			return fault.New(fault.Invalid, "%s network %s: there is no subnet %q", verb, name, p.GetSubnet()).
				WithTry("--subnet 10.20.0.0/20")
		}
		if id := tx.overlapping(subnet); id != "" && id != n.Id {
			return fault.New(fault.InUse, "%s network %s: its subnet %v overlaps that of network %s",
				verb, name, subnet, tx.networks.Get(id).GetSpec().GetName()).
				WithTry("another subnet, or none: then a free one is chosen")
		}
	}
	if id := tx.vnis.Get(vniOf(n)).network; id != "" && id != n.Id {
		return fault.New(fault.InUse, "%s network %s: its VXLAN id %d is that of network %s",
			verb, name, vniOf(n), tx.networks.Get(id).GetSpec().GetName()).
			WithTry("another VXLAN id, or none: then a free one is chosen")
	}
	return ownSubnetsApart(verb, n)
}

// ownSubnetsApart refuses a network whose subnets overlap each other.
func ownSubnetsApart(verb string, n *pb.Network) error {
	subnets := subnetsOf(n)
	for i, p := range subnets {
		for _, q := range subnets[:i] {
			if p.Overlaps(q) {
				return fault.New(fault.Invalid, "%s network %s: its subnets %v and %v overlap", verb, n.GetSpec().GetName(), q, p)
			}
		}
	}
	return nil
}

func (tx *txn) removeNetwork(c *pb.RemoveNetwork) error {
	old := tx.networks.Get(c.GetId())
	if old == nil {
		return missing("remove", "network", c.GetId())
	}
	name := old.GetSpec().GetName()
	if users := tx.networkUsers(old); len(users) > 0 {
		what := "it is used by service"
		if old.GetSpec().GetIngress() {
			what = "ports are published by service"
		}
		return fault.New(fault.InUse, "remove network %s: %s %s", name, what, strings.Join(users, ", ")).
			WithTry("%s", freeing(old, users[0]))
	}
	tx.deleteNetwork(old)
	return nil
}

// freeing is what takes a service off a network.
func freeing(n *pb.Network, service string) string {
	if n.GetSpec().GetIngress() {
		return "minictl service update --publish-rm TARGET_PORT " + service
	}
	return "minictl service update --network-rm " + n.GetSpec().GetName() + " " + service
}

// networkUsers names the services, also those that are going away, which are on
// a network themselves or by a task that has not ended; of the ingress network
// those that publish ports.
func (tx *txn) networkUsers(n *pb.Network) []string {
	refers := func(spec *pb.TaskSpec) bool {
		if n.GetSpec().GetIngress() {
			return slices.ContainsFunc(spec.GetPorts(), Ingress)
		}
		return slices.ContainsFunc(spec.GetNetworks(), func(a *pb.NetworkAttachment) bool { return a.GetNetworkId() == n.Id })
	}
	users := map[string]bool{}
	for s := range tx.services.All() {
		if refers(s.GetSpec().GetTask()) || !n.GetSpec().GetIngress() && tx.olderRefers(s, refers) {
			users[s.GetSpec().GetName()] = true
		}
	}
	for _, owner := range (View{&tx.tables}).Addresses(n.Id) {
		users[tx.ownerName(owner)] = true
	}
	return slices.Sorted(maps.Keys(users))
}

// ownerName names the service that holds an address, itself or by a task.
func (tx *txn) ownerName(o Owner) string {
	if o.Task != "" {
		return tx.tasks.Get(o.Task).GetServiceName()
	}
	return tx.services.Get(o.Service).GetSpec().GetName()
}

// allocateNetwork keeps what a network was given once: tasks use it.
func (tx *txn) allocateNetwork(c *pb.AllocateNetwork) error {
	old := tx.networks.Get(c.GetId())
	switch {
	case old == nil:
		return missing("allocate", "network", c.GetId())
	case c.GetAllocation() == nil:
		return fault.New(fault.Invalid, "allocate network %s: there is nothing in the command", old.GetSpec().GetName())
	case proto.Equal(old.Allocation, c.Allocation):
		return nil
	}
	if had := old.GetAllocation(); had.GetVni() != 0 && had.GetVni() != c.Allocation.Vni || !samePools(had, c.Allocation) {
		return fault.New(fault.State, "allocate network %s: it has its subnets and VXLAN id, which stay", old.GetSpec().GetName())
	}
	n := shallow(old)
	n.Allocation = c.Allocation
	if err := tx.numbersFree("allocate", n); err != nil {
		return err
	}
	tx.putNetwork(n)
	return nil
}

func samePools(had, has *pb.NetworkAllocation) bool {
	return len(had.GetPools()) == 0 ||
		slices.EqualFunc(had.GetPools(), has.GetPools(), func(a, b *pb.AddressPool) bool { return proto.Equal(a, b) })
}

// networksExist refuses a task spec on a network that is not there, that
// carries no tasks, or that is named twice.
func (tx *txn) networksExist(verb string, spec *pb.TaskSpec) error {
	networks := spec.GetNetworks()
	for i, a := range networks {
		n := tx.networks.Get(a.GetNetworkId())
		switch {
		case n == nil:
			return fault.New(fault.NotFound, "%s: there is no network %s (id %s)", verb, a.GetNetworkName(), a.GetNetworkId()).
				WithTry("minictl network create %s", a.GetNetworkName())
		case n.GetSpec().GetIngress():
			return fault.New(fault.Invalid, "%s: network %s is the routing mesh's own, no task can be on it", verb, n.GetSpec().GetName()).
				WithTry("--publish PORT:TARGET, which makes the service reachable through it")
		case slices.ContainsFunc(networks[:i], func(b *pb.NetworkAttachment) bool { return b.NetworkId == a.NetworkId }):
			return fault.New(fault.Invalid, "%s: network %s is named twice", verb, n.GetSpec().GetName())
		}
	}
	return nil
}

// portsFree refuses published ports that are another service's. One that is
// published on every node has one owner; those of mode host may meet, for their
// tasks are kept apart.
func (tx *txn) portsFree(verb, id string, ports []*pb.PortConfig) error {
	for i, p := range ports {
		if p.GetPublished() == 0 {
			continue
		}
		for _, q := range ports[:i] {
			if samePort(p, q) {
				return fault.New(fault.Invalid, "%s: port %s is published twice", verb, portName(p))
			}
		}
		for other := range tx.portsAt(Protocol(p), p.Published) {
			if other.service == id || !other.ingress && !Ingress(p) {
				continue
			}
			return portTaken(verb, p, tx.services.Get(other.service))
		}
	}
	return nil
}

func samePort(p, q *pb.PortConfig) bool {
	apart := !Ingress(p) && !Ingress(q) && p.GetHostIp() != "" && q.GetHostIp() != "" && p.GetHostIp() != q.GetHostIp()
	return p.GetPublished() == q.GetPublished() && Protocol(p) == Protocol(q) && !apart
}

func portTaken(verb string, p *pb.PortConfig, owner *pb.Service) error {
	name := owner.GetSpec().GetName()
	if owner.GetRemoving() {
		return fault.New(fault.InUse, "%s: port %s is published by service %s, which is still stopping its tasks", verb, portName(p), name).
			WithTry("the same in a moment; minictl service ps %s shows what is left", name)
	}
	return fault.New(fault.InUse, "%s: port %s is published by service %s", verb, portName(p), name).
		WithTry("another port; minictl service inspect %s shows which ones it has", name)
}
