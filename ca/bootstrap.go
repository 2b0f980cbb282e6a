package ca

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

// ClusterName is the name of every cluster, as in Swarm.
const ClusterName = "default"

// Founding is a new cluster before its first raft entry.
type Founding struct {
	// Cluster goes into CreateCluster, with root and tokens.
	Cluster *pb.Cluster
	// Node goes into CreateNode, once its description is filled in.
	Node *pb.Node
	// Network goes into CreateNetwork: the routing mesh's, which gets its subnet
	// from the allocator.
	Network *pb.CreateNetwork
	// Material goes into the first node's Keystore.
	Material Material
	Root     *Root
}

// DefaultSpec returns the settings of a cluster for which nothing was chosen;
// those of Swarm, but for the heartbeat (Swarm: 5 s) and the length of subnets
// (Swarm: 24, which 250 tasks fill).
func DefaultSpec() *pb.ClusterSpec {
	return &pb.ClusterSpec{
		Name:             ClusterName,
		HeartbeatPeriod:  durationpb.New(2 * time.Second),
		TaskHistoryLimit: 5,
		SnapshotInterval: 10_000,
		CertExpiry:       durationpb.New(90 * 24 * time.Hour),
		OrphanTime:       durationpb.New(24 * time.Hour),

		DefaultAddressPools: []string{"10.0.0.0/8"},
		SubnetMaskLength:    20,
		DataPathPort:        4789,
	}
}

// Bootstrap makes a cluster and its first manager. What spec leaves unset gets
// its default; spec may be nil.
func Bootstrap(spec *pb.ClusterSpec, now time.Time) (*Founding, error) {
	full := DefaultSpec()
	if len(spec.GetDefaultAddressPools()) > 0 {
		full.DefaultAddressPools = nil // Merge would add to them
	}
	proto.Merge(full, spec)
	if err := checkPools(full); err != nil {
		return nil, err
	}
	if full.CertExpiry.AsDuration() < minExpiry {
		return nil, fault.New(fault.Invalid, "bad certificate expiry %v: it must be at least %v", full.CertExpiry.AsDuration(), minExpiry)
	}
	clusterID, nodeID := id.New(), id.New()
	root, err := NewRoot(clusterID, now)
	if err != nil {
		return nil, err
	}
	key, csr, err := newRequest()
	if err != nil {
		return nil, err
	}
	const manager = pb.NodeRole_NODE_ROLE_MANAGER
	cert, err := root.Issue(csr, Subject{nodeID, clusterID, manager}, full.CertExpiry.AsDuration(), now)
	if err != nil {
		return nil, err
	}
	return &Founding{
		Root:     root,
		Material: Material{Key: keyPEM(key), Cert: cert, Root: root.CertPEM()},
		Cluster: &pb.Cluster{
			Id: clusterID, Spec: full,
			RootCaCert: root.CertPEM(), RootCaKey: root.KeyPEM(),
			JoinTokens: &pb.JoinTokens{Worker: NewToken(root.Cert).String(), Manager: NewToken(root.Cert).String()},
		},
		Node: &pb.Node{
			Id:     nodeID,
			Spec:   &pb.NodeSpec{Role: manager, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
			Role:   manager,
			Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_UNKNOWN, Message: "its agent has not reported yet", Since: timestamppb.New(now)},
		},
		Network: &pb.CreateNetwork{Id: id.New(), Spec: &pb.NetworkSpec{
			Name: "ingress", Driver: pb.NetworkSpec_DRIVER_OVERLAY, Ingress: true,
		}},
	}, nil
}
