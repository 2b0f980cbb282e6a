package controlapi

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// GetCluster returns the cluster without key and tokens.
func (s *Server) GetCluster(context.Context, *pb.GetClusterRequest) (*pb.Cluster, error) {
	cluster := s.cfg.State.View().Cluster()
	if cluster == nil {
		return nil, fault.New(fault.NotFound, "find cluster: there is none yet").WithTry("minictl swarm init")
	}
	return publicCluster(cluster), nil
}

// UpdateCluster replaces the cluster's spec.
func (s *Server) UpdateCluster(ctx context.Context, req *pb.UpdateClusterRequest) (*pb.Cluster, error) {
	spec := normalClusterSpec(req.GetSpec())
	if err := checkClusterSpec(spec); err != nil {
		return nil, err
	}
	err := s.propose(ctx, &pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{
		IfVersion: req.GetIfVersion(), Spec: spec,
	}}})
	if err != nil {
		return nil, err
	}
	return publicCluster(s.cfg.State.View().Cluster()), nil
}

// RotateJoinToken replaces the tokens that are named and returns both.
func (s *Server) RotateJoinToken(ctx context.Context, req *pb.RotateJoinTokenRequest) (*pb.JoinTokens, error) {
	return s.cfg.RotateTokens(ctx, req.GetWorker(), req.GetManager())
}

// normalClusterSpec makes the defaults explicit.
func normalClusterSpec(spec *pb.ClusterSpec) *pb.ClusterSpec {
	if spec == nil {
		spec = &pb.ClusterSpec{}
	}
	spec = proto.CloneOf(spec)
	if spec.Name == "" {
		spec.Name = "default"
	}
	if spec.HeartbeatPeriod == nil {
		spec.HeartbeatPeriod = durationpb.New(2 * time.Second)
	}
	if spec.SnapshotInterval == 0 {
		spec.SnapshotInterval = 10000
	}
	if spec.CertExpiry == nil {
		spec.CertExpiry = durationpb.New(90 * 24 * time.Hour)
	}
	return spec
}

func checkClusterSpec(spec *pb.ClusterSpec) error {
	heartbeat, expiry := spec.HeartbeatPeriod.AsDuration(), spec.CertExpiry.AsDuration()
	switch {
	case spec.HeartbeatPeriod.CheckValid() != nil || heartbeat < time.Second || heartbeat > time.Minute:
		return fault.New(fault.Invalid, "update cluster: the heartbeat period %v is not between 1s and 1m", heartbeat).
			WithTry("minictl swarm update --dispatcher-heartbeat 2s")
	case spec.CertExpiry.CheckValid() != nil || expiry < time.Hour:
		return fault.New(fault.Invalid, "update cluster: certificates cannot expire after %v: an hour is the least", expiry).
			WithTry("minictl swarm update --cert-expiry 2160h")
	case spec.SnapshotInterval < 100:
		return fault.New(fault.Invalid, "update cluster: a snapshot every %d log entries is too often: 100 is the least", spec.SnapshotInterval).
			WithTry("minictl swarm update --snapshot-interval 10000")
	case spec.MaxSnapshots > 100:
		return fault.New(fault.Invalid, "update cluster: %d old snapshots are too many: 100 is the most", spec.MaxSnapshots)
	}
	return nil
}
