package store

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// What the allocator gives to services, tasks and nodes. It looks at a state
// that may have moved on; that nothing is given twice is made sure of here.

// portName is how users write a published port: "8080/tcp".
func portName(p *pb.PortConfig) string {
	return fmt.Sprintf("%d/%s", p.GetPublished(), strings.ToLower(strings.TrimPrefix(Protocol(p).String(), "PROTOCOL_")))
}

// allocateService leaves the version alone: the endpoint is not the spec's.
func (tx *txn) allocateService(c *pb.AllocateService) error {
	old := tx.services.Get(c.GetId())
	switch {
	case old == nil:
		return missing("allocate", "service", c.GetId())
	case proto.Equal(old.Endpoint, c.Endpoint):
		return nil
	}
	name := old.GetSpec().GetName()
	if err := current("service", name, old.Meta, c.IfVersion); err != nil {
		return err
	}
	for i, v := range c.GetEndpoint().GetVips() {
		twice := slices.ContainsFunc(c.Endpoint.Vips[:i], func(w *pb.VirtualIP) bool { return w.GetNetworkId() == v.GetNetworkId() })
		if twice || !tx.addressesFree(v.GetNetworkId(), v.GetAddresses(), Owner{Service: old.Id}) {
			return fault.New(fault.InUse, "allocate service %s: an address of %v in network %s is not free", name, v.GetAddresses(), v.GetNetworkId())
		}
	}
	ports := c.GetEndpoint().GetPorts()
	if kept := stillPublished(c.Endpoint, old.Spec.Task); len(kept.GetPorts()) != len(ports) ||
		slices.ContainsFunc(ports, func(p *pb.PortConfig) bool { return p.GetPublished() == 0 || !Ingress(p) }) {
		return fault.New(fault.Invalid, "allocate service %s: a port is not one that it publishes on every node", name)
	}
	if err := tx.portsFree("allocate service "+name, old.Id, ports); err != nil {
		return err
	}
	n := shallow(old)
	n.Endpoint = c.Endpoint
	tx.putService(n)
	return nil
}

// addressesFree says whether nobody but owner holds any of the addresses of a
// network that exists.
func (tx *txn) addressesFree(network string, addresses []string, owner Owner) bool {
	if len(addresses) == 0 || tx.networks.Get(network) == nil {
		return false
	}
	for i, text := range addresses {
		addr, ok := parseAddr(text)
		if !ok || slices.Contains(addresses[:i], text) {
			return false
		}
		if holder := tx.addresses.Get(addressKey{network, addr}).owner; holder != (Owner{}) && holder != owner {
			return false
		}
	}
	return true
}

func (tx *txn) allocateTasks(c *pb.AllocateTasks) error {
	for _, a := range c.GetTasks() {
		if a.GetId() == "" || (len(a.Addresses) == 0) == (a.Problem == "") {
			return fault.New(fault.Invalid, "allocate tasks: task %q needs addresses or a problem", a.GetId())
		}
	}
	for _, a := range c.GetTasks() {
		old := tx.tasks.Get(a.Id)
		if old == nil || old.GetStatus().GetState() != pb.TaskState_TASK_STATE_NEW || old.DesiredState > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		switch {
		case a.Problem != "":
			tx.explainNew(old, a.Problem)
		case tx.takeable(old, a.Addresses):
			tx.changeTask(old, func(n *pb.Task) {
				n.Addresses = tx.sharing(a.Addresses)
				n.Status = &pb.TaskStatus{State: pb.TaskState_TASK_STATE_PENDING, At: tx.at, Message: "waiting to be placed"}
			})
		}
	}
	return nil
}

// Waiting is the message of a task that gets no addresses because of a problem.
func Waiting(problem string) string { return "waiting: " + problem }

// explainNew says why a task gets no addresses; state and time stay.
func (tx *txn) explainNew(old *pb.Task, problem string) {
	message := Waiting(problem)
	if old.Status.GetMessage() == message {
		return
	}
	tx.changeTask(old, func(n *pb.Task) {
		n.Status = shallow(old.Status)
		n.Status.Message = message
	})
}

// takeable says whether a task may have addresses: free ones, for each of its
// networks, in their order.
func (tx *txn) takeable(t *pb.Task, addresses []*pb.TaskAddress) bool {
	networks := TaskSpec(tx.services.Get(t.ServiceId), t.SpecVersion).GetNetworks()
	if len(networks) != len(addresses) {
		return false
	}
	for i, a := range addresses {
		if a.GetNetworkId() != networks[i].GetNetworkId() || !tx.addressesFree(a.GetNetworkId(), a.GetAddresses(), Owner{Task: t.Id}) {
			return false
		}
	}
	return true
}

// sharing makes addresses, which nobody else holds yet, use the ids of the
// networks themselves.
func (tx *txn) sharing(addresses []*pb.TaskAddress) []*pb.TaskAddress {
	for _, a := range addresses {
		a.NetworkId = tx.networks.Get(a.NetworkId).Id
	}
	return addresses
}

func (tx *txn) allocateNode(c *pb.AllocateNode) error {
	old := tx.nodes.Get(c.GetId())
	switch {
	case old == nil:
		return missing("allocate", "node", c.GetId())
	case old.MeshNumber == c.MeshNumber:
		return nil
	}
	if holder := tx.numbers.Get(c.MeshNumber).node; holder != "" {
		return fault.New(fault.InUse, "allocate node %s: number %d is that of node %s", old.Id, c.MeshNumber, holder)
	}
	n := shallow(old)
	n.MeshNumber = c.MeshNumber
	tx.putNode(n)
	return nil
}

// setNetworkKeys only goes forward.
func (tx *txn) setNetworkKeys(c *pb.SetNetworkKeys) error {
	old, err := tx.needCluster("set network keys")
	if err != nil {
		return err
	}
	newest := uint64(0)
	for _, k := range c.GetKeys() {
		if len(k.GetKey()) != 32 || k.Epoch <= newest {
			return fault.New(fault.Invalid, "set network keys: they must have 32 bytes and rising epochs")
		}
		newest = k.Epoch
	}
	if n := len(old.NetworkKeys); n > 0 && newest <= old.NetworkKeys[n-1].Epoch {
		return fault.New(fault.Stale, "set network keys: epoch %d is not newer than %d", newest, old.NetworkKeys[n-1].Epoch)
	}
	n := shallow(old)
	n.NetworkKeys = c.Keys
	tx.putCluster(n)
	return nil
}
