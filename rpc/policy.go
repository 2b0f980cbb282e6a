package rpc

import (
	"strings"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// roles is a set of kinds of callers.
type roles uint8

const (
	// anyone includes callers without a certificate.
	anyone roles = 1 << iota
	worker
	manager
	// local are the holders of the node's unix socket, whatever its role.
	local
)

// route says which manager carries out a method.
type route uint8

const (
	// here is the one that was called.
	here route = iota
	// toLeader passes the call on to the leader.
	toLeader
	// onLeader refuses it elsewhere, naming the leader: long streams should
	// not weigh on a second manager.
	onLeader
)

// rule is the row of one method.
type rule struct {
	allow roles
	route route
}

// policy has a row for every method; a method without one is refused.
var policy = policyTable()

func policyTable() map[string]rule {
	control := rule{allow: manager, route: toLeader}
	socket := rule{allow: local}
	return map[string]rule{
		pb.Control_GetCluster_FullMethodName:       control,
		pb.Control_UpdateCluster_FullMethodName:    control,
		pb.Control_RotateJoinToken_FullMethodName:  control,
		pb.Control_ListNodes_FullMethodName:        control,
		pb.Control_GetNode_FullMethodName:          control,
		pb.Control_UpdateNode_FullMethodName:       control,
		pb.Control_RemoveNode_FullMethodName:       control,
		pb.Control_CreateService_FullMethodName:    control,
		pb.Control_ListServices_FullMethodName:     control,
		pb.Control_GetService_FullMethodName:       control,
		pb.Control_UpdateService_FullMethodName:    control,
		pb.Control_RemoveService_FullMethodName:    control,
		pb.Control_RollbackService_FullMethodName:  control,
		pb.Control_RebalanceService_FullMethodName: control,
		pb.Control_RunJob_FullMethodName:           control,
		pb.Control_ListTasks_FullMethodName:        control,
		pb.Control_GetTask_FullMethodName:          control,
		pb.Control_ExplainTask_FullMethodName:      control,
		pb.Control_CreateSecret_FullMethodName:     control,
		pb.Control_ListSecrets_FullMethodName:      control,
		pb.Control_GetSecret_FullMethodName:        control,
		pb.Control_UpdateSecret_FullMethodName:     control,
		pb.Control_RemoveSecret_FullMethodName:     control,
		pb.Control_CreateConfig_FullMethodName:     control,
		pb.Control_ListConfigs_FullMethodName:      control,
		pb.Control_GetConfig_FullMethodName:        control,
		pb.Control_UpdateConfig_FullMethodName:     control,
		pb.Control_RemoveConfig_FullMethodName:     control,
		pb.Control_CreateNetwork_FullMethodName:    control,
		pb.Control_ListNetworks_FullMethodName:     control,
		pb.Control_GetNetwork_FullMethodName:       control,
		pb.Control_DescribeNetwork_FullMethodName:  control,
		pb.Control_RemoveNetwork_FullMethodName:    control,
		pb.Control_PruneNetworks_FullMethodName:    control,
		pb.Control_CheckNetwork_FullMethodName:     control,
		pb.Control_Watch_FullMethodName:            control,
		pb.Control_Events_FullMethodName:           control,
		pb.Control_Logs_FullMethodName:             control,
		pb.Control_Exec_FullMethodName:             control,
		pb.Control_Usage_FullMethodName:            control,

		pb.Dispatcher_Session_FullMethodName: {allow: worker | manager, route: onLeader},
		pb.Dispatcher_Attach_FullMethodName:  {allow: worker | manager, route: onLeader},

		pb.CA_GetRoot_FullMethodName: {allow: anyone},
		pb.CA_Join_FullMethodName:    {allow: anyone, route: toLeader},
		pb.CA_Renew_FullMethodName:   {allow: worker | manager, route: toLeader},

		pb.Membership_JoinRaft_FullMethodName:  {allow: manager, route: toLeader},
		pb.Membership_LeaveRaft_FullMethodName: {allow: manager, route: toLeader},

		pb.Local_Info_FullMethodName:         socket,
		pb.Local_Init_FullMethodName:         socket,
		pb.Local_JoinCluster_FullMethodName:  socket,
		pb.Local_Leave_FullMethodName:        socket,
		pb.Local_ListImages_FullMethodName:   socket,
		pb.Local_LoadImage_FullMethodName:    socket,
		pb.Local_RemoveImage_FullMethodName:  socket,
		pb.Local_DebugNetwork_FullMethodName: socket,
	}
}

// roles returns the kinds of caller that an identity counts as.
func (id Identity) roles() roles {
	r := anyone
	if id.Local {
		r |= local
	}
	switch {
	case id.Role == pb.NodeRole_NODE_ROLE_MANAGER:
		r |= manager
	case id.Role == pb.NodeRole_NODE_ROLE_WORKER && !id.Local:
		r |= worker
	}
	return r
}

// permit finds a method's rule and checks that the caller satisfies it.
func permit(method string, id Identity) (rule, error) {
	r, ok := policy[method]
	if !ok {
		return rule{}, fault.New(fault.Denied, "cannot call %s: unknown method", shortName(method))
	}
	if r.allow&id.roles() != 0 {
		return r, nil
	}
	return rule{}, refusal(method, r, id)
}

func refusal(method string, r rule, id Identity) error {
	switch {
	case id.Local && id.ClusterID == "":
		return fault.New(fault.NotManager, "this node is not a manager: it is not part of a cluster").
			WithTry("minictl swarm init, or minictl swarm join --token TOKEN HOST:2377")
	case id.Local:
		return fault.New(fault.NotManager, "this node is not a manager: workers cannot see or change the cluster's state").
			WithTry("run it on a manager, or there first: minictl node promote %s", id.NodeID)
	case r.allow == local:
		return fault.New(fault.Denied, "cannot call %s: it is served on the node's own socket only", shortName(method))
	case id.NodeID == "":
		return fault.New(fault.Denied, "cannot call %s: the caller has no certificate of this cluster", shortName(method))
	}
	return fault.New(fault.Denied, "cannot call %s: node %s is not a manager", shortName(method), id.NodeID).
		WithTry("run it on a manager, or there first: minictl node promote %s", id.NodeID)
}

// shortName turns /minid.v1.Control/GetNode into Control.GetNode.
func shortName(method string) string {
	return strings.ReplaceAll(strings.TrimPrefix(method, "/minid.v1."), "/", ".")
}
