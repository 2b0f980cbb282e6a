package store

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// keptVersions is how many specs a service remembers, and how many task specs
// besides those in use.
const keptVersions = 10

func (tx *txn) createService(c *pb.CreateService) error {
	spec := c.GetSpec()
	if c.GetId() == "" || spec.GetName() == "" || spec.GetTask() == nil || spec.GetMode() == nil {
		return fault.New(fault.Invalid, "create service: the command is incomplete: id, name, task and mode are required")
	}
	if tx.services.Get(c.Id) != nil {
		return fault.New(fault.Exists, "create service %s: its id %s is taken", spec.Name, c.Id)
	}
	if err := tx.nameFree(spec.Name); err != nil {
		return err
	}
	if err := tx.obtainable("create service "+spec.Name, c.Id, spec.Task); err != nil {
		return err
	}
	tx.putService(&pb.Service{
		Id: c.Id, Meta: tx.created(), Spec: spec,
		SpecVersion: 1,
		Versions:    []*pb.TaskSpecVersion{{Version: 1, Spec: spec.Task, CreatedAt: tx.at}},
		History:     []*pb.ServiceVersion{{Number: 1, Spec: spec, CreatedAt: tx.at}},
		Job:         tx.rescheduled(nil, nil, spec),
	})
	return nil
}

func (tx *txn) nameFree(name string) error {
	holder := tx.servicesByName.Get(name)
	switch {
	case holder == nil:
		return nil
	case holder.Removing:
		return fault.New(fault.Exists, "create service %s: the old service of this name is still stopping its tasks", name).
			WithTry("the same in a moment; minictl service ps %s shows what is left", name)
	}
	return fault.New(fault.Exists, "create service %s: the name is taken by service %s", name, holder.Id).
		WithTry("minictl service update %s, or another name", name)
}

func (tx *txn) updateServiceSpec(c *pb.UpdateServiceSpec) error {
	old := tx.services.Get(c.GetId())
	if old == nil {
		return missing("update", "service", c.GetId())
	}
	if err := tx.updatable(old, c); err != nil {
		return err
	}
	n := tx.withSpec(old, c.Spec, 0)
	switch {
	case n.SpecVersion != old.SpecVersion:
		n.UpdateStatus = nil // the orchestrator begins anew
	case resumes(old, n):
		n.UpdateStatus = tx.resumed(old.UpdateStatus)
	}
	tx.putService(n)
	return nil
}

// withSpec is a service with another spec, which is a rollback to the version
// with that number if it is not 0.
func (tx *txn) withSpec(old *pb.Service, spec *pb.ServiceSpec, rollback uint64) *pb.Service {
	n := shallow(old)
	n.Meta, n.Spec = tx.updated(old.Meta), spec
	n.Endpoint = stillPublished(old.Endpoint, spec.Task)
	n.Job = tx.rescheduled(old.Job, old.Spec, spec)
	if proto.Equal(old.Spec.Task, spec.Task) {
		n.Spec = shallow(spec) // one task spec in memory, not two
		n.Spec.Task = old.Spec.Task
	} else {
		n.SpecVersion++
		n.Versions = tx.keep(old, &pb.TaskSpecVersion{Version: n.SpecVersion, Spec: spec.Task, CreatedAt: tx.at})
	}
	if rollback != 0 || !proto.Equal(old.Spec, spec) {
		n.History = tx.remember(old, n.Spec, rollback)
	}
	return n
}

// stillPublished takes ports out of an endpoint that a new spec gives up:
// another service may have them at once.
func stillPublished(e *pb.Endpoint, spec *pb.TaskSpec) *pb.Endpoint {
	given := func(p *pb.PortConfig) bool {
		return !slices.ContainsFunc(spec.GetPorts(), func(s *pb.PortConfig) bool { return publishes(s, p) })
	}
	if !slices.ContainsFunc(e.GetPorts(), given) {
		return e
	}
	n := shallow(e)
	n.Ports = slices.DeleteFunc(slices.Clone(e.Ports), given)
	return n
}

func (tx *txn) updatable(old *pb.Service, c *pb.UpdateServiceSpec) error {
	name := old.GetSpec().GetName()
	switch {
	case old.Removing:
		return fault.New(fault.State, "update service %s: it is being removed", name)
	case c.GetSpec().GetTask() == nil || c.Spec.GetMode() == nil:
		return fault.New(fault.Invalid, "update service %s: the command is incomplete: task and mode are required", name)
	case c.Spec.Name != name:
		return fault.New(fault.Invalid, "update service %s: a service cannot be renamed (to %q)", name, c.Spec.Name)
	case !sameMode(old.Spec, c.Spec):
		return fault.New(fault.Invalid, "update service %s: its mode cannot be exchanged for another", name).
			WithTry("create another service in the other mode, then remove this one")
	}
	if err := current("service", name, old.Meta, c.IfVersion); err != nil {
		return err
	}
	return tx.obtainable("update service "+name, old.Id, c.Spec.Task)
}

// obtainable refuses a task spec that refers to something which is not there,
// or publishes a port which another service has.
func (tx *txn) obtainable(verb, service string, spec *pb.TaskSpec) error {
	if err := tx.filesExist(verb, spec); err != nil {
		return err
	}
	if err := tx.networksExist(verb, spec); err != nil {
		return err
	}
	return tx.portsFree(verb, service, spec.GetPorts())
}

// keep appends a version and drops the oldest beyond keptVersions that no
// task or run names which may still need it.
func (tx *txn) keep(old *pb.Service, newest *pb.TaskSpecVersion) []*pb.TaskSpecVersion {
	all := append(append(make([]*pb.TaskSpecVersion, 0, len(old.Versions)+1), old.Versions...), newest)
	if len(all) <= keptVersions {
		return all
	}
	used := tx.usedVersions(old)
	kept := all[:0]
	for i, v := range all {
		if len(all)-i <= keptVersions || used[v.Version] {
			kept = append(kept, v)
		}
	}
	return kept
}

// usedVersions are the spec versions of a service's tasks, and of its runs,
// that have not ended.
func (tx *txn) usedVersions(s *pb.Service) map[uint64]bool {
	used := map[uint64]bool{}
	for _, r := range s.GetJob().GetRuns() {
		if r.State == pb.JobState_JOB_STATE_RUNNING {
			used[r.SpecVersion] = true
		}
	}
	for t := range (View{&tx.tables}).TasksByService(s.Id) {
		if t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING {
			used[t.SpecVersion] = true
		}
	}
	return used
}

// removeService marks a service; doing so twice is no error.
func (tx *txn) removeService(c *pb.RemoveService) error {
	old := tx.services.Get(c.GetId())
	switch {
	case old == nil:
		return missing("remove", "service", c.GetId())
	case old.Removing:
		return nil
	}
	n := shallow(old)
	n.Meta, n.Removing = tx.updated(old.Meta), true
	tx.putService(n)
	return nil
}

// setUpdateStatus refuses news of an update that a newer spec has overtaken.
func (tx *txn) setUpdateStatus(c *pb.SetUpdateStatus) error {
	old := tx.services.Get(c.GetId())
	switch {
	case old == nil:
		return missing("set update status of", "service", c.GetId())
	case c.Status != nil && c.Status.ToVersion != old.SpecVersion:
		return fault.New(fault.Stale, "set update status of service %s: it is about version %d, the service is at %d",
			old.GetSpec().GetName(), c.Status.ToVersion, old.SpecVersion)
	case proto.Equal(old.UpdateStatus, c.Status):
		return nil
	}
	n := shallow(old)
	n.UpdateStatus = c.Status
	tx.putService(n)
	return nil
}

func (tx *txn) dropService(c *pb.DeleteService) error {
	old := tx.services.Get(c.GetId())
	switch {
	case old == nil:
		return missing("delete", "service", c.GetId())
	case !old.Removing:
		return fault.New(fault.State, "delete service %s: nobody removed it", old.GetSpec().GetName()).
			WithTry("minictl service rm %s", old.GetSpec().GetName())
	}
	for t := range (View{&tx.tables}).TasksByService(old.Id) {
		return fault.New(fault.InUse, "delete service %s: it still has tasks, %s for one", old.GetSpec().GetName(), t.Id)
	}
	tx.deleteService(old)
	return nil
}
