package store

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Previous is the newest version of a service's history that differs from the
// present spec and, if tasks says so, in what its tasks are made from; nil if
// none is kept.
func Previous(s *pb.Service, tasks bool) *pb.ServiceVersion {
	for i := len(s.GetHistory()) - 2; i >= 0; i-- {
		v := s.History[i]
		if tasks && proto.Equal(v.Spec.GetTask(), s.Spec.GetTask()) || proto.Equal(v.Spec, s.Spec) {
			continue
		}
		return v
	}
	return nil
}

// RollingBack tells whether a service's last rollout is a rollback, whatever
// became of it.
func RollingBack(s *pb.Service) bool {
	u := s.GetUpdateStatus()
	return u.GetToVersion() == s.GetSpecVersion() && u.GetState() >= pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED
}

// Rollout is how a service's tasks are replaced at present: by its rollback
// settings during a rollback, else by those for updates. What is unset means
// one at a time, and Swarm's defaults for the rest.
func Rollout(s *pb.Service) *pb.UpdateConfig {
	c := s.GetSpec().GetUpdate()
	if RollingBack(s) {
		c = s.GetSpec().GetRollback()
	}
	if c == nil {
		return &pb.UpdateConfig{Parallelism: 1}
	}
	return c
}

// StartsFirst tells whether a service's new tasks start before those that they
// replace have ended. With a fixed port of mode host they cannot, whatever the
// order says: the old task holds it.
func StartsFirst(s *pb.Service) bool {
	return Rollout(s).GetOrder() == pb.UpdateConfig_ORDER_START_FIRST && FixedHostPort(s.GetSpec().GetTask()) == nil
}

// FixedHostPort is a port that only one task of a node can have, nil if there
// is none.
func FixedHostPort(spec *pb.TaskSpec) *pb.PortConfig {
	for _, p := range spec.GetPorts() {
		if p.Mode == pb.PortConfig_MODE_HOST && p.Published != 0 {
			return p
		}
	}
	return nil
}

// remember appends a version to the history and drops the oldest.
func (tx *txn) remember(old *pb.Service, spec *pb.ServiceSpec, rollback uint64) []*pb.ServiceVersion {
	known := old.History
	if len(known) == 0 { // from before there was a history
		known = []*pb.ServiceVersion{{Number: 1, Spec: old.Spec, CreatedAt: old.GetMeta().GetCreatedAt()}}
	}
	all := append(make([]*pb.ServiceVersion, 0, len(known)+1), known...)
	number := known[len(known)-1].Number + 1
	all = append(all, &pb.ServiceVersion{Number: number, Spec: spec, CreatedAt: tx.at, RollbackTo: rollback})
	return all[max(0, len(all)-keptVersions):]
}

// resumes tells whether a change that concerns no task lets a paused rollout
// go on: anything but another number of replicas.
func resumes(old, next *pb.Service) bool {
	state := old.UpdateStatus.GetState()
	paused := state == pb.UpdateState_UPDATE_STATE_PAUSED || state == pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED
	return paused && old.Spec.GetReplicated().GetReplicas() == next.Spec.GetReplicated().GetReplicas()
}

// resumed begins a paused rollout again, with its failures forgiven.
func (tx *txn) resumed(old *pb.UpdateStatus) *pb.UpdateStatus {
	n := &pb.UpdateStatus{StartedAt: tx.at, ToVersion: old.ToVersion}
	n.State, n.Message = pb.UpdateState_UPDATE_STATE_UPDATING, "update in progress, resumed"
	if old.State == pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED {
		n.State, n.Message = pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, "rollback in progress, resumed"
	}
	return n
}

func (tx *txn) rollbackService(c *pb.RollbackService) error {
	old := tx.services.Get(c.GetId())
	if old == nil {
		return missing("roll back", "service", c.GetId())
	}
	name := old.GetSpec().GetName()
	if v := c.IfSpecVersion; v != 0 && v != old.SpecVersion {
		return fault.New(fault.Stale, "roll back service %s: it was updated to version %d of its tasks, this is about %d", name, old.SpecVersion, v).
			WithTry("minictl service history %s", name)
	}
	to, err := rollbackTarget(old, c.To)
	if err != nil {
		return err
	}
	if err := tx.updatable(old, &pb.UpdateServiceSpec{Id: c.Id, IfVersion: c.IfVersion, Spec: to.Spec}); err != nil {
		return fmt.Errorf("roll back service %s to version %d: %w", name, to.Number, err)
	}
	n := tx.withSpec(old, to.Spec, to.Number)
	if !IsJob(n.Spec) && (n.SpecVersion != old.SpecVersion || settled(old)) {
		n.UpdateStatus = &pb.UpdateStatus{
			State: pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, StartedAt: tx.at, ToVersion: n.SpecVersion,
			Message: fmt.Sprintf("rollback to version %d in progress", to.Number),
		}
		if c.Reason != "" {
			n.UpdateStatus.Message += ": " + c.Reason
		}
	}
	tx.putService(n)
	return nil
}

// settled tells whether no rollout of a service goes on or is paused. One that
// does is not disturbed by a rollback to the same task spec.
func settled(s *pb.Service) bool {
	switch s.UpdateStatus.GetState() {
	case pb.UpdateState_UPDATE_STATE_COMPLETED, pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED:
		return true
	}
	return s.UpdateStatus == nil && s.SpecVersion == 1
}

// rollbackTarget finds a version by its number, 0 being the previous one.
func rollbackTarget(s *pb.Service, number uint64) (*pb.ServiceVersion, error) {
	name := s.GetSpec().GetName()
	if number == 0 {
		if v := Previous(s, false); v != nil {
			return v, nil
		}
		return nil, fault.New(fault.State, "roll back service %s: it has no other version to go back to", name)
	}
	for _, v := range s.History {
		switch {
		case v.Number != number:
		case proto.Equal(v.Spec, s.Spec):
			return nil, fault.New(fault.State, "roll back service %s: version %d is the same as the present one", name, number).
				WithTry("minictl service history %s", name)
		default:
			return v, nil
		}
	}
	return nil, fault.New(fault.NotFound, "roll back service %s: version %d is not among the %d that are kept", name, number, len(s.History)).
		WithTry("minictl service history %s", name)
}
