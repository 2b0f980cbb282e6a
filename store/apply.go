package store

import (
	"fmt"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// apply carries out one command. It either does all of it or, for those that
// the protocol says are refused one by one, every item that still applies.
func (tx *txn) apply(c *pb.Command) error {
	switch k := c.GetKind().(type) {
	case *pb.Command_CreateCluster:
		return tx.createCluster(k.CreateCluster)
	case *pb.Command_UpdateClusterSpec:
		return tx.updateClusterSpec(k.UpdateClusterSpec)
	case *pb.Command_SetJoinTokens:
		return tx.setJoinTokens(k.SetJoinTokens)

	case *pb.Command_CreateNode:
		return tx.createNode(k.CreateNode)
	case *pb.Command_UpdateNodeSpec:
		return tx.updateNodeSpec(k.UpdateNodeSpec)
	case *pb.Command_SetNodeRole:
		return tx.setNodeRole(k.SetNodeRole)
	case *pb.Command_ReportNode:
		return tx.reportNode(k.ReportNode)
	case *pb.Command_SetManagerAddr:
		return tx.setManagerAddr(k.SetManagerAddr)
	case *pb.Command_RemoveNode:
		return tx.removeNode(k.RemoveNode)

	case *pb.Command_CreateService:
		return tx.createService(k.CreateService)
	case *pb.Command_UpdateServiceSpec:
		return tx.updateServiceSpec(k.UpdateServiceSpec)
	case *pb.Command_RemoveService:
		return tx.removeService(k.RemoveService)
	case *pb.Command_SetJobStatus:
		return tx.setJobStatus(k.SetJobStatus)
	case *pb.Command_RunJob:
		return tx.runJob(k.RunJob)
	case *pb.Command_SetUpdateStatus:
		return tx.setUpdateStatus(k.SetUpdateStatus)
	case *pb.Command_RollbackService:
		return tx.rollbackService(k.RollbackService)
	case *pb.Command_DeleteService:
		return tx.dropService(k.DeleteService)
	case *pb.Command_SetRebalance:
		return tx.setRebalance(k.SetRebalance)
	}
	return tx.applyTaskOrFile(c)
}

func (tx *txn) applyTaskOrFile(c *pb.Command) error {
	switch k := c.GetKind().(type) {
	case *pb.Command_CreateTasks:
		return tx.createTasks(k.CreateTasks)
	case *pb.Command_SetDesired:
		return tx.setDesired(k.SetDesired)
	case *pb.Command_AssignTasks:
		return tx.assignTasks(k.AssignTasks)
	case *pb.Command_ExplainTasks:
		return tx.explainTasks(k.ExplainTasks)
	case *pb.Command_ReportStatuses:
		return tx.reportStatuses(k.ReportStatuses)
	case *pb.Command_DeleteTasks:
		return tx.deleteTasks(k.DeleteTasks)

	case *pb.Command_CreateSecret:
		return tx.createSecret(k.CreateSecret)
	case *pb.Command_UpdateSecretLabels:
		return tx.updateSecretLabels(k.UpdateSecretLabels)
	case *pb.Command_RemoveSecret:
		return tx.removeSecret(k.RemoveSecret)
	case *pb.Command_CreateConfig:
		return tx.createConfig(k.CreateConfig)
	case *pb.Command_UpdateConfigLabels:
		return tx.updateConfigLabels(k.UpdateConfigLabels)
	case *pb.Command_RemoveConfig:
		return tx.removeConfig(k.RemoveConfig)
	}
	return tx.applyNetwork(c)
}

func (tx *txn) applyNetwork(c *pb.Command) error {
	switch k := c.GetKind().(type) {
	case *pb.Command_CreateNetwork:
		return tx.createNetwork(k.CreateNetwork)
	case *pb.Command_RemoveNetwork:
		return tx.removeNetwork(k.RemoveNetwork)
	case *pb.Command_AllocateNetwork:
		return tx.allocateNetwork(k.AllocateNetwork)
	case *pb.Command_AllocateService:
		return tx.allocateService(k.AllocateService)
	case *pb.Command_AllocateTasks:
		return tx.allocateTasks(k.AllocateTasks)
	case *pb.Command_AllocateNode:
		return tx.allocateNode(k.AllocateNode)
	case *pb.Command_SetNetworkKeys:
		return tx.setNetworkKeys(k.SetNetworkKeys)
	}
	panic(fmt.Sprintf("store: entry %d holds a command that this minid does not know (%T, %d unknown bytes): it was written by a newer one; upgrade this node",
		tx.index, c.GetKind(), len(c.ProtoReflect().GetUnknown())))
}

// current refuses a write that was prepared on an older version of the object.
func current(what, id string, m *pb.Meta, ifVersion uint64) error {
	if ifVersion == 0 || ifVersion == m.GetVersion() {
		return nil
	}
	return fault.New(fault.Stale, "update %s %s: it changed since it was read (version %d, now %d)", what, id, ifVersion, m.GetVersion()).
		WithTry("run the command again")
}

// missing is the refusal of a command about an object that is not there.
func missing(verb, what, id string) error {
	return fault.New(fault.NotFound, "%s %s %s: there is none with this id", verb, what, id).WithTry("minictl %s ls", what)
}

// incomplete is the refusal of a command that lacks what every one must have.
func incomplete(verb, what string) error {
	return fault.New(fault.Invalid, "%s %s: the command is incomplete: id, spec and name are required", verb, what)
}
