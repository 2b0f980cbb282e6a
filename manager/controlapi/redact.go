package controlapi

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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
	withoutAuth(s.GetSpec().GetTask())
	for _, v := range s.GetVersions() {
		withoutAuth(v.Spec)
	}
	for _, v := range s.GetHistory() {
		withoutAuth(v.GetSpec().GetTask())
	}
	return s
}

func withoutAuth(t *pb.TaskSpec) {
	if t.GetContainer() != nil {
		t.Container.PullAuth = nil
	}
}

// listedService leaves out the history, which is ten times the rest.
func listedService(s *pb.Service) *pb.Service {
	short := &pb.Service{}
	s.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if field.Name() != "history" {
			short.ProtoReflect().Set(field, v)
		}
		return true
	})
	return publicService(short)
}

// publicObject makes the public form of any object, for watches.
func publicObject(o store.Object) *pb.Object {
	switch o := o.(type) {
	case *pb.Cluster:
		return &pb.Object{Kind: &pb.Object_Cluster{Cluster: publicCluster(o)}}
	case *pb.Node:
		return &pb.Object{Kind: &pb.Object_Node{Node: o}}
	case *pb.Service:
		return &pb.Object{Kind: &pb.Object_Service{Service: listedService(o)}}
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
