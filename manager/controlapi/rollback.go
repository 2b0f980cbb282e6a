package controlapi

import (
	"context"

	pb "github.com/minid/minid/proto/minid/v1"
)

// RollbackService puts an earlier spec of a service in place again.
func (s *Server) RollbackService(ctx context.Context, req *pb.RollbackServiceRequest) (*pb.UpdateServiceResponse, error) {
	service, err := findService(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_RollbackService{RollbackService: &pb.RollbackService{
		Id: service.Id, IfVersion: req.GetIfVersion(), To: req.GetTo(),
	}}})
	if err != nil {
		return nil, err
	}
	view := s.cfg.State.View()
	return &pb.UpdateServiceResponse{
		Service:  answered(view, service.Id),
		Warnings: serviceWarnings(view, service.Id, view.Service(service.Id).GetSpec()),
	}, nil
}
