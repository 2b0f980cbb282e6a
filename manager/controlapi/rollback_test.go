package controlapi

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestRollbackService(t *testing.T) {
	r := newRig(t)
	first := r.create(web())
	back := &pb.RollbackServiceRequest{Ref: "web"}
	_, err := r.server.RollbackService(t.Context(), back)
	wantClass(t, err, fault.State)
	spec := proto.CloneOf(first.Spec)
	spec.Task.Container.Env = []string{"A=b"}
	if _, err := r.server.UpdateService(t.Context(), &pb.UpdateServiceRequest{Ref: "web", Spec: spec}); err != nil {
		t.Fatal(err)
	}
	_, err = r.server.RollbackService(t.Context(), &pb.RollbackServiceRequest{Ref: "web", IfVersion: first.Meta.Version})
	wantClass(t, err, fault.Stale)
	_, err = r.server.RollbackService(t.Context(), &pb.RollbackServiceRequest{Ref: "web", To: 7})
	wantClass(t, err, fault.NotFound)
	_, err = r.server.RollbackService(t.Context(), &pb.RollbackServiceRequest{Ref: "none"})
	wantClass(t, err, fault.NotFound)
	answer, err := r.server.RollbackService(t.Context(), back)
	if err != nil {
		t.Fatal(err)
	}
	s := answer.Service
	if len(s.Spec.Task.Container.Env) != 0 || len(s.History) != 3 || s.UpdateStatus.State != pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED {
		t.Errorf("it went back to %v", s)
	}
	all, err := r.server.ListServices(t.Context(), &pb.ListRequest{})
	if err != nil || len(all.Services) != 1 || all.Services[0].History != nil || len(all.Services[0].Versions) != 3 {
		t.Errorf("the list is %v, %v", all, err)
	}
}

func TestStartFirstWithAFixedHostPortIsAWarning(t *testing.T) {
	r := newRig(t)
	spec := web()
	spec.Task.Ports = []*pb.PortConfig{{Mode: pb.PortConfig_MODE_HOST, Published: 80, Target: 80}}
	spec.Rollback = &pb.UpdateConfig{Order: pb.UpdateConfig_ORDER_START_FIRST}
	answer, err := r.server.CreateService(t.Context(), &pb.CreateServiceRequest{Spec: spec})
	if err != nil || len(answer.Warnings) != 1 || !strings.HasPrefix(answer.Warnings[0], "rollback-order start-first: a task holds port 80/tcp") {
		t.Errorf("%v, %v", answer.GetWarnings(), err)
	}
}
