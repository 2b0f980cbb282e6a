package controlapi

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// populated has a secret, credentials and tokens in every place that holds any.
func populated(t *testing.T) *rig {
	r := newRig(t)
	r.files()
	spec := web()
	spec.Task.Container.PullAuth = []byte(pullAuth)
	spec.Task.Container.Secrets = []*pb.FileReference{{Name: "pw"}}
	r.create(spec)
	spec = proto.CloneOf(r.state.View().ServiceByName("web").Spec)
	spec.Task.Container.Env = []string{"A=b"}
	if _, err := r.server.UpdateService(t.Context(), &pb.UpdateServiceRequest{Ref: "web", Spec: spec}); err != nil {
		t.Fatal(err)
	}
	r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	job := nightly(&pb.JobSchedule{Cron: "@daily"})
	job.Task.Container.PullAuth = []byte(pullAuth)
	r.create(job)
	return r
}

// request fills a method's request with references that lead somewhere.
func request(r *rig, method string, kind reflect.Type) any {
	refs := map[string]string{"Node": "w1", "Service": "web", "Task": "t1", "Secret": "pw", "Config": "cf", "Network": "ingress", "Job": "backup"}
	req := reflect.New(kind.Elem())
	for what, ref := range refs {
		if field := req.Elem().FieldByName("Ref"); field.IsValid() && strings.HasSuffix(method, what) {
			field.SetString(ref)
		}
	}
	switch m := req.Interface().(type) {
	case *pb.CreateServiceRequest:
		m.Spec = web()
		m.Spec.Name = "other"
		m.Spec.Task.Container.PullAuth = []byte(pullAuth)
	case *pb.UpdateServiceRequest:
		m.Spec = proto.CloneOf(r.state.View().ServiceByName("web").Spec)
	case *pb.CreateNetworkRequest:
		m.Spec = &pb.NetworkSpec{Name: "other"}
	case *pb.CreateSecretRequest:
		m.Spec = &pb.SecretSpec{Name: "other", Data: []byte(secretData)}
	case *pb.CreateConfigRequest:
		m.Spec = &pb.ConfigSpec{Name: "other", Data: []byte("public")}
	}
	return req.Interface()
}

// Every unary method is called; no answer and no error has anything secret.
func TestNoAnswerHoldsASecret(t *testing.T) {
	server := reflect.TypeFor[pb.ControlServer]()
	for i := range server.NumMethod() {
		method := server.Method(i)
		if method.Type.NumIn() != 2 || method.Type.NumOut() != 2 || method.Name == "RotateJoinToken" {
			continue // streams, and the one that is for tokens
		}
		r := populated(t)
		out := reflect.ValueOf(r.server).MethodByName(method.Name).Call([]reflect.Value{
			reflect.ValueOf(t.Context()), reflect.ValueOf(request(r, method.Name, method.Type.In(1))),
		})
		if err, _ := out[1].Interface().(error); err != nil {
			if strings.Contains(err.Error(), "LEAK") {
				t.Errorf("%s fails with a secret: %v", method.Name, err)
			}
			if !strings.HasPrefix(method.Name, "Remove") {
				t.Errorf("%s: %v", method.Name, err)
			}
			continue
		}
		wire, err := proto.Marshal(out[0].Interface().(proto.Message))
		if err != nil || bytes.Contains(wire, []byte("LEAK")) {
			t.Errorf("%s answers a secret (%v)", method.Name, err)
		}
	}
}

func TestWatchHoldsNoSecret(t *testing.T) {
	r := populated(t)
	for _, from := range []uint64{0, 1} {
		for e := range r.watch(t, &pb.WatchRequest{FromIndex: from}, 10) {
			if wire, _ := proto.Marshal(e); bytes.Contains(wire, []byte("LEAK")) {
				t.Errorf("watch from %d tells a secret: %v", from, e)
			}
		}
	}
}

func TestPullAuthStaysWithItsRegistry(t *testing.T) {
	for image, want := range map[string]string{"nginx:2": pullAuth, "quay.io/nginx": ""} {
		r := populated(t)
		service, err := r.server.GetService(t.Context(), &pb.GetRequest{Ref: "web"})
		if err != nil {
			t.Fatal(err)
		}
		version := r.state.View().ServiceByName("web").SpecVersion
		update := func(image string) {
			service.Spec.Task.Container.Image = image
			if _, err := r.server.UpdateService(t.Context(), &pb.UpdateServiceRequest{Ref: "web", Spec: service.Spec}); err != nil {
				t.Fatal(err)
			}
		}
		update(service.Spec.Task.Container.Image)
		if got := r.state.View().ServiceByName("web").SpecVersion; got != version {
			t.Errorf("sending back what was answered made version %d of %d", got, version)
		}
		update(image)
		if got := string(r.state.View().ServiceByName("web").Spec.Task.Container.PullAuth); got != want {
			t.Errorf("%s gets credentials %q, want %q", image, got, want)
		}
	}
}

func TestServiceStatus(t *testing.T) {
	r := newRig(t)
	r.create(web())
	r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	r.task("t2", "web", 2, "node-w2", pb.TaskState_TASK_STATE_FAILED)
	global := web()
	global.Name, global.Mode = "agent", &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	global.Task.Placement = &pb.Placement{Constraints: []string{"node.role==worker"}}
	r.create(global)
	r.task("g1", "agent", 0, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	answer, err := r.server.ListServices(t.Context(), &pb.ListRequest{})
	if err != nil || len(answer.Services) != 2 {
		t.Fatal(answer, err)
	}
	for _, s := range answer.Services {
		if s.Status.GetRunning() != 1 || s.Status.GetDesired() != 2 {
			t.Errorf("%s runs %v", s.Spec.Name, s.Status)
		}
	}
	if _, err := r.server.RemoveService(t.Context(), &pb.RemoveRequest{Ref: "web"}); err != nil {
		t.Fatal(err)
	}
	if s, _ := r.server.GetService(t.Context(), &pb.GetRequest{Ref: "web"}); s.GetStatus().GetDesired() != 0 {
		t.Errorf("a service that goes wants %v", s.GetStatus())
	}
}

func TestSharedHostPortIsAWarning(t *testing.T) {
	r := newRig(t)
	spec := web()
	spec.Task.Ports = []*pb.PortConfig{{Mode: pb.PortConfig_MODE_HOST, Published: 80, Target: 80}}
	r.create(spec)
	other := proto.CloneOf(spec)
	other.Name = "other"
	answer, err := r.server.CreateService(t.Context(), &pb.CreateServiceRequest{Spec: other})
	if err != nil || len(answer.Warnings) != 1 || !strings.Contains(answer.Warnings[0], "80/tcp is also published by service web") {
		t.Errorf("%v, %v", answer.GetWarnings(), err)
	}
}

func TestDemotion(t *testing.T) {
	reachable, gone := &pb.ManagerStatus{Reachable: true}, &pb.ManagerStatus{}
	for _, row := range []struct {
		managers map[string]*pb.ManagerStatus
		refusal  string
	}{
		{map[string]*pb.ManagerStatus{"node-m1": reachable}, "last manager"},
		{map[string]*pb.ManagerStatus{"node-m1": reachable, "node-m2": reachable}, ""},
		{map[string]*pb.ManagerStatus{"node-m1": reachable, "node-m2": gone}, "only 0 would be reachable"},
		{map[string]*pb.ManagerStatus{"node-m1": reachable, "node-m2": reachable, "node-m3": gone}, "only 1 would be reachable, a majority is 2"},
		{map[string]*pb.ManagerStatus{"node-m1": gone, "node-m2": reachable, "node-m3": reachable}, ""},
		{map[string]*pb.ManagerStatus{"node-m1": reachable, "node-w1": reachable}, "last manager"}, // w1 is being demoted
	} {
		r := newRig(t)
		r.node("node-m2", "m2", pb.NodeRole_NODE_ROLE_MANAGER)
		r.node("node-m3", "m3", pb.NodeRole_NODE_ROLE_MANAGER)
		r.managers = row.managers
		_, err := r.server.UpdateNode(t.Context(), &pb.UpdateNodeRequest{Ref: "m1", Spec: &pb.NodeSpec{Role: pb.NodeRole_NODE_ROLE_WORKER}})
		if row.refusal == "" {
			if err != nil {
				t.Errorf("%v: %v", row.managers, err)
			}
			continue
		}
		wantClass(t, err, fault.State)
		if err != nil && !strings.Contains(err.Error(), row.refusal) {
			t.Errorf("%q does not say %q", err, row.refusal)
		}
	}
}

func TestUpdateNodeKeepsWhatIsLeftOpen(t *testing.T) {
	r := newRig(t)
	n, err := r.server.UpdateNode(t.Context(), &pb.UpdateNodeRequest{Ref: "w1", Spec: &pb.NodeSpec{Labels: map[string]string{"disk": "ssd"}}})
	if err != nil || n.Spec.Role != pb.NodeRole_NODE_ROLE_WORKER || n.Spec.Availability != pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE {
		t.Errorf("%v, %v", n, err)
	}
	_, err = r.server.UpdateNode(t.Context(), &pb.UpdateNodeRequest{Ref: "w1", IfVersion: 1, Spec: n.GetSpec()})
	wantClass(t, err, fault.Stale)
	nodes, err := r.server.ListNodes(t.Context(), &pb.ListRequest{Filters: []*pb.Filter{{Key: "role", Values: []string{"manager"}}}})
	if err != nil || len(nodes.Nodes) != 1 || !nodes.Nodes[0].ManagerStatus.GetLeader() {
		t.Errorf("managers: %v, %v", nodes, err)
	}
}

func TestSecretsAndConfigs(t *testing.T) {
	r := populated(t)
	for _, data := range [][]byte{nil, make([]byte, maxSecret+1)} {
		_, err := r.server.CreateSecret(t.Context(), &pb.CreateSecretRequest{Spec: &pb.SecretSpec{Name: "x", Data: data}})
		wantClass(t, err, fault.Invalid)
	}
	_, err := r.server.CreateSecret(t.Context(), &pb.CreateSecretRequest{Spec: &pb.SecretSpec{Name: "pw", Data: []byte("x")}})
	wantClass(t, err, fault.Exists)
	_, err = r.server.RemoveSecret(t.Context(), &pb.RemoveRequest{Ref: "pw"})
	wantClass(t, err, fault.InUse)
	if !strings.Contains(err.Error(), "web") {
		t.Errorf("%q does not name the user", err)
	}
	c, err := r.server.GetConfig(t.Context(), &pb.GetRequest{Ref: "cf"})
	if err != nil || string(c.Spec.Data) != "public" {
		t.Errorf("config %v, %v", c, err)
	}
	c, err = r.server.UpdateConfig(t.Context(), &pb.UpdateLabelsRequest{Ref: "cf", Labels: map[string]string{"a": "b"}})
	if err != nil || c.Spec.Labels["a"] != "b" || string(c.Spec.Data) != "public" {
		t.Errorf("updated config %v, %v", c, err)
	}
}

func TestUncommittedChangeFails(t *testing.T) {
	r := newRig(t)
	broken := fault.New(fault.Unavailable, "no leader")
	r.server.cfg.Propose = func(context.Context, ...*pb.Command) ([]error, error) { return nil, broken }
	if _, err := r.server.CreateService(t.Context(), &pb.CreateServiceRequest{Spec: web()}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
