package controlapi

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// The functions below make what may leave the managers of a stored object:
// without keys, tokens, secrets' data and registry credentials. They copy what
// they change.

// publicCluster picks what may be seen, so that a field which is not thought of
// here stays hidden, as the keys and tokens do.
func publicCluster(c *pb.Cluster) *pb.Cluster {
	return &pb.Cluster{Id: c.GetId(), Meta: c.GetMeta(), Spec: c.GetSpec(), RootCaCert: c.GetRootCaCert()}
}

func publicSecret(s *pb.Secret) *pb.Secret {
	return &pb.Secret{Id: s.GetId(), Meta: s.GetMeta(), Spec: &pb.SecretSpec{
		Name:   s.GetSpec().GetName(),
		Labels: s.GetSpec().GetLabels(),
	}}
}

// listedConfig leaves out the data, of which a list could hold gigabytes.
func listedConfig(c *pb.Config) *pb.Config {
	return &pb.Config{Id: c.GetId(), Meta: c.GetMeta(), Spec: &pb.ConfigSpec{
		Name:   c.GetSpec().GetName(),
		Labels: c.GetSpec().GetLabels(),
	}}
}

// publicService always copies, for callers add the status.
func publicService(s *pb.Service) *pb.Service {
	s = proto.CloneOf(s)
	if container := s.GetSpec().GetTask().GetContainer(); container != nil {
		container.PullAuth = nil
	}
	for _, v := range s.GetVersions() {
		if container := v.GetSpec().GetContainer(); container != nil {
			container.PullAuth = nil
		}
	}
	return s
}

// publicObject makes the public form of any object, for watches.
func publicObject(o store.Object) *pb.Object {
	switch o := o.(type) {
	case *pb.Cluster:
		return &pb.Object{Kind: &pb.Object_Cluster{Cluster: publicCluster(o)}}
	case *pb.Node:
		return &pb.Object{Kind: &pb.Object_Node{Node: o}}
	case *pb.Service:
		return &pb.Object{Kind: &pb.Object_Service{Service: publicService(o)}}
	case *pb.Task:
		return &pb.Object{Kind: &pb.Object_Task{Task: o}}
	case *pb.Secret:
		return &pb.Object{Kind: &pb.Object_Secret{Secret: publicSecret(o)}}
	case *pb.Config:
		return &pb.Object{Kind: &pb.Object_Config{Config: listedConfig(o)}}
	case *pb.Network:
		return &pb.Object{Kind: &pb.Object_Network{Network: o}}
	}
	return nil
}
