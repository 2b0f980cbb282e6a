package allocator

import (
	"fmt"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// maxTasks bounds the tasks of one command: some 400 KiB.
const maxTasks = 4096

// tasks gives addresses to those that need them: first to those that waited
// for what is free again, then to new ones.
func (b *book) tasks(view store.View, emit func(*pb.Command)) {
	w := &taskWriter{book: b, view: view, emit: emit}
	for _, n := range b.takeEased() {
		w.retry(n)
	}
	for _, e := range b.untold {
		if !e.gone && !e.flying {
			w.explain(e)
		}
	}
	b.untold = nil
	fresh := b.fresh
	b.fresh = nil
	for _, e := range fresh {
		w.allocate(e)
	}
	w.flush()
}

// takeEased returns the networks whose queues are worth a look.
func (b *book) takeEased() []*network {
	eased := b.eased
	b.eased = nil
	for _, n := range eased {
		n.eased = false
	}
	return eased
}

// taskWriter collects allocations into commands.
type taskWriter struct {
	*book
	view  store.View
	emit  func(*pb.Command)
	batch []*pb.TaskAllocation
}

// retry looks at what waits for a network: as many tasks as there are
// addresses, or all of them if they wait for a subnet, to say why.
func (w *taskWriter) retry(n *network) {
	all := n.early
	n.early = false
	for left := len(n.queue); left > 0 && (all || n.full() == nil); left-- {
		e := n.queue[0]
		n.queue[0] = nil
		n.queue = n.queue[1:]
		w.allocate(e)
	}
}

// allocate gives a task its addresses, or puts it into the queue of the first
// network that has none.
func (w *taskWriter) allocate(e *entry) {
	if e.gone || e.flying {
		return
	}
	t := e.task
	spec := store.TaskSpec(w.view.Service(t.ServiceId), t.SpecVersion)
	if spec == nil {
		w.drop(t.Id) // its service is gone, and it with it
		return
	}
	addresses := make([]*pb.TaskAddress, 0, len(spec.Networks))
	for _, a := range spec.Networks {
		n := w.networks[a.NetworkId]
		if n == nil {
			w.undo(addresses)
			w.drop(t.Id)
			return
		}
		taken, ok := n.take()
		if !ok {
			w.undo(addresses)
			n.queue = append(n.queue, e)
			n.early = n.early || len(n.pools) == 0
			e.problem = n.problem()
			w.explain(e)
			return
		}
		of := &pb.TaskAddress{NetworkId: a.NetworkId, Addresses: make([]string, len(taken))}
		for i, p := range taken {
			of.Addresses[i] = p.String()
		}
		addresses = append(addresses, of)
	}
	e.flying = true
	w.add(&pb.TaskAllocation{Id: t.Id, Addresses: addresses})
}

// undo gives back what no command was made of; nobody waited for it.
func (b *book) undo(addresses []*pb.TaskAddress) {
	for _, a := range addresses {
		for _, text := range a.Addresses {
			b.networks[a.NetworkId].release(readAddr(text))
		}
	}
}

// problem is why a network has no address to give; empty when it will soon be
// known.
func (n *network) problem() string {
	name := n.object.GetSpec().GetName()
	if full := n.full(); full != nil {
		return fmt.Sprintf("no free address in network %s (%v, %d of %d used)", name, full.subnet, full.used, full.size())
	}
	if why := n.object.GetAllocation().GetProblem(); why != "" {
		return fmt.Sprintf("network %s has no subnet: %s", name, why)
	}
	return ""
}

// explain tells a task in a queue why it waits, unless it says so already.
func (w *taskWriter) explain(e *entry) {
	if e.problem != "" && e.task.GetStatus().GetMessage() != store.Waiting(e.problem) {
		w.add(&pb.TaskAllocation{Id: e.task.Id, Problem: e.problem})
	}
}

func (w *taskWriter) add(a *pb.TaskAllocation) {
	w.batch = append(w.batch, a)
	if len(w.batch) == maxTasks {
		w.flush()
	}
}

func (w *taskWriter) flush() {
	if len(w.batch) > 0 {
		w.emit(&pb.Command{Kind: &pb.Command_AllocateTasks{AllocateTasks: &pb.AllocateTasks{Tasks: w.batch}}})
		w.batch = nil
	}
}

// settleTasks takes back what a finished proposal did not give: it was not
// committed, the task wants nothing any more, or an address was another's.
func (b *book) settleTasks(view store.View, c *pb.AllocateTasks) {
	for _, a := range c.Tasks {
		t := view.Task(a.Id)
		if len(a.Addresses) > 0 && !slices.EqualFunc(t.GetAddresses(), a.Addresses, sameAddress) {
			b.disown(view, a.Addresses)
		}
		e := b.waiting[a.Id]
		switch {
		case e == nil || t.GetStatus().GetState() != pb.TaskState_TASK_STATE_NEW:
		case a.Problem != "" && t.GetStatus().GetMessage() != store.Waiting(e.problem):
			b.untold = append(b.untold, e)
		case a.Problem == "" && e.flying:
			e.flying = false
			b.fresh = append(b.fresh, e)
		}
	}
}

func sameAddress(a, b *pb.TaskAddress) bool {
	return a.NetworkId == b.NetworkId && slices.Equal(a.Addresses, b.Addresses)
}

// disown makes those addresses free which nobody holds.
func (b *book) disown(view store.View, addresses []*pb.TaskAddress) {
	for _, a := range addresses {
		for _, text := range a.Addresses {
			if view.AddressOwner(a.NetworkId, readAddr(text)) == (store.Owner{}) {
				b.release(a.NetworkId, []string{text})
			}
		}
	}
}
