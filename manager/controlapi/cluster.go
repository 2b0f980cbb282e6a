package controlapi

import (
	"cmp"
	"context"
	"slices"
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
	old := s.cfg.State.View().Cluster().GetSpec()
	keepPools(spec, old)
	if err := firstOf(checkClusterSpec(spec), checkPoolsStay(spec, old)); err != nil {
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
	if spec.PlacementStrategy == pb.PlacementStrategy_PLACEMENT_STRATEGY_UNSPECIFIED {
		spec.PlacementStrategy = pb.PlacementStrategy_PLACEMENT_STRATEGY_SPREAD
	}
	if spec.CertExpiry == nil {
		spec.CertExpiry = durationpb.New(90 * 24 * time.Hour)
	}
	if spec.OrphanTime == nil {
		spec.OrphanTime = durationpb.New(24 * time.Hour)
	}
	if spec.NetworkKeyPeriod == nil {
		spec.NetworkKeyPeriod = durationpb.New(12 * time.Hour)
	}
	return spec
}

// keepPools takes over from the present spec what a request leaves open of the
// networks' ground: addresses and port.
func keepPools(spec, old *pb.ClusterSpec) {
	if len(spec.DefaultAddressPools) == 0 {
		spec.DefaultAddressPools = old.GetDefaultAddressPools()
	}
	spec.SubnetMaskLength = cmp.Or(spec.SubnetMaskLength, old.GetSubnetMaskLength())
	spec.DataPathPort = cmp.Or(spec.DataPathPort, old.GetDataPathPort())
}

// checkPoolsStay refuses to change under the networks what they stand on.
func checkPoolsStay(spec, old *pb.ClusterSpec) error {
	if slices.Equal(spec.DefaultAddressPools, old.GetDefaultAddressPools()) &&
		spec.SubnetMaskLength == old.GetSubnetMaskLength() && spec.DataPathPort == old.GetDataPathPort() {
		return nil
	}
	return fault.New(fault.Invalid, "update cluster: the default address pools, their mask length and the data path port stay as they were made: networks stand on them").
		WithTry("minictl network create --subnet SUBNET, for one network elsewhere")
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
	case spec.RebalanceOnJoin && spec.PlacementStrategy == pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK:
		return fault.New(fault.Invalid, "update cluster: rebalancing when nodes join spreads tasks, the placement strategy binpack does the opposite").
			WithTry("minictl swarm update --placement-strategy spread --rebalance-on-join")
	case spec.OrphanTime.CheckValid() != nil || spec.OrphanTime.AsDuration() < time.Second:
		return fault.New(fault.Invalid, "update cluster: tasks cannot be orphaned after %v: a second is the least", spec.OrphanTime.AsDuration()).
			WithTry("minictl swarm update --orphan-time 24h")
	case spec.SnapshotInterval < 100:
		return fault.New(fault.Invalid, "update cluster: a snapshot every %d log entries is too often: 100 is the least", spec.SnapshotInterval).
			WithTry("minictl swarm update --snapshot-interval 10000")
	case spec.MaxSnapshots > 100:
		return fault.New(fault.Invalid, "update cluster: %d old snapshots are too many: 100 is the most", spec.MaxSnapshots)
	}
	if err := checkKeyPeriod(spec.NetworkKeyPeriod); err != nil {
		return err
	}
	return checkStrategy(spec.PlacementStrategy)
}

// leastKeyPeriod is more than nodes need to hear of a key before the next one.
const leastKeyPeriod = 10 * time.Second

func checkKeyPeriod(p *durationpb.Duration) error {
	if p.CheckValid() == nil && p.AsDuration() >= leastKeyPeriod {
		return nil
	}
	return fault.New(fault.Invalid, "update cluster: keys of encrypted networks cannot change every %v: %v is the least", p.AsDuration(), leastKeyPeriod).
		WithTry("minictl swarm update --network-key-period 12h")
}
