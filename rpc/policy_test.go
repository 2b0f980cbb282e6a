package rpc

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestPolicyHasARowForEveryMethodAndNoOther(t *testing.T) {
	exists := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("minid.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				name := "/" + string(s.FullName()) + "/" + string(s.Methods().Get(j).Name())
				exists[name] = true
				if r, ok := policy[name]; !ok || r.allow == 0 {
					t.Errorf("%s has no row in the policy: say who may call it", name)
				}
			}
		}
		return true
	})
	for name := range policy {
		if !exists[name] {
			t.Errorf("the policy has a row for %s, which does not exist", name)
		}
	}
}

func TestUnknownMethodsAreDenied(t *testing.T) {
	boss := Identity{NodeID: "m", ClusterID: "c", Role: pb.NodeRole_NODE_ROLE_MANAGER, Local: true}
	for _, method := range []string{"", "/", "/minid.v1.Control/Nothing", "/grpc.health.v1.Health/Check"} {
		if _, err := permit(method, boss); !fault.Is(err, fault.Denied) {
			t.Errorf("%q: %v", method, err)
		}
	}
}
