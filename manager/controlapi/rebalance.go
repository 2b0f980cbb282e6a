package controlapi

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// RebalanceService has a replicated service's tasks spread anew over the nodes
// there are. While that goes on, asking again changes nothing.
func (s *Server) RebalanceService(ctx context.Context, req *pb.GetRequest) (*pb.Service, error) {
	view := s.cfg.State.View()
	service, err := findService(view, req.GetRef())
	if err != nil {
		return nil, err
	}
	if err := mayRebalance(view, service); err != nil {
		return nil, err
	}
	if !store.Rebalancing(service) {
		err = s.propose(ctx, &pb.Command{Kind: &pb.Command_SetRebalance{SetRebalance: &pb.SetRebalance{
			Id: service.Id, Rebalance: &pb.Rebalance{AskedAt: timestamppb.New(time.Now()), Message: "asked for"},
		}}})
	}
	if err != nil {
		return nil, err
	}
	return answered(s.cfg.State.View(), service.Id), nil
}

// mayRebalance refuses what the store does not know of: nodes that are packed
// are uneven on purpose, and an update that is paused has its tasks where they are.
func mayRebalance(view store.View, s *pb.Service) error {
	name := s.GetSpec().GetName()
	if view.Cluster().GetSpec().GetPlacementStrategy() == pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK {
		return fault.New(fault.State, "rebalance service %s: the cluster's placement strategy is binpack, which fills nodes one after the other", name).
			WithTry("minictl swarm update --placement-strategy spread")
	}
	switch s.GetUpdateStatus().GetState() {
	case pb.UpdateState_UPDATE_STATE_PAUSED, pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED:
		return fault.New(fault.State, "rebalance service %s: its update is paused", name).
			WithTry("minictl service rollback %s, or minictl service update", name)
	}
	return nil
}
