package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/client"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// minidSwarm runs minid with its defaults on each machine.
var minidSwarm = system{name: "minid", boot: bootMinid}

func bootMinid(ctx context.Context, m machines) ([]*host, error) {
	var hosts []*host
	for range m.managers + m.workers {
		h, err := startMinid(m)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	first := hosts[0]
	if _, err := first.Ctl(ctx, "swarm", "init", "--advertise-addr", first.Addr); err != nil {
		return nil, err
	}
	var joining sync.WaitGroup
	errs := make([]error, len(hosts))
	for i, h := range hosts[1:] {
		role := "manager"
		if i+1 >= m.managers {
			role = "worker"
		}
		joining.Go(func() { errs[i] = h.Join(ctx, first.Node, role) })
	}
	joining.Wait()
	return hosts, errors.Join(errs...)
}

func startMinid(m machines) (*host, error) {
	n, err := m.machine()
	if err != nil {
		return nil, err
	}
	if err := n.AllowRegistry(registryHost); err != nil {
		return nil, err
	}
	if err := n.Start(); err != nil {
		return nil, err
	}
	api, err := n.API()
	if err != nil {
		return nil, err
	}
	return &host{Node: n, control: minidAPI{api, m.image}, pid: n.Pid}, nil
}

type minidAPI struct {
	*client.Client
	image string
}

func (m minidAPI) spec(s service) *pb.ServiceSpec {
	spec := &pb.ServiceSpec{
		Name: s.name,
		Task: &pb.TaskSpec{
			Container: &pb.ContainerSpec{Image: m.image, Args: []string{"sleep"}, Env: s.environment()},
			Placement: &pb.Placement{},
		},
		Mode:   &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: s.replicas}},
		Update: &pb.UpdateConfig{Parallelism: s.parallelism},
	}
	if s.monitor > 0 {
		spec.Update.Monitor = durationpb.New(s.monitor)
	}
	if s.onWorkers {
		spec.Task.Placement.Constraints = []string{"node.role == worker"}
	}
	if s.global {
		spec.Mode = &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	}
	return spec
}

func (m minidAPI) create(ctx context.Context, s service) error {
	_, err := m.Control.CreateService(ctx, &pb.CreateServiceRequest{Spec: m.spec(s)})
	return err
}

func (m minidAPI) update(ctx context.Context, s service) error {
	now, err := m.Control.GetService(ctx, &pb.GetRequest{Ref: s.name})
	if err != nil {
		return err
	}
	_, err = m.Control.UpdateService(ctx, &pb.UpdateServiceRequest{Ref: s.name, IfVersion: now.GetMeta().GetVersion(), Spec: m.spec(s)})
	return err
}

func (m minidAPI) updated(ctx context.Context, name string) (bool, error) {
	now, err := m.Control.GetService(ctx, &pb.GetRequest{Ref: name})
	if err != nil {
		return false, err
	}
	state := now.GetUpdateStatus().GetState()
	if state == pb.UpdateState_UPDATE_STATE_PAUSED {
		return false, fmt.Errorf("the update is paused: %s", now.GetUpdateStatus().GetMessage())
	}
	return state == pb.UpdateState_UPDATE_STATE_COMPLETED, nil
}

func (m minidAPI) remove(ctx context.Context, name string) error {
	_, err := m.Control.RemoveService(ctx, &pb.RemoveRequest{Ref: name})
	return err
}

func (m minidAPI) tasks(ctx context.Context, name string) ([]task, error) {
	res, err := m.Control.ListTasks(ctx, &pb.ListTasksRequest{Services: []string{name}})
	if fault.Is(err, fault.NotFound) {
		return nil, nil // the service is gone, and its tasks with it
	}
	var found []task
	for _, t := range res.GetTasks() {
		const running = pb.TaskState_TASK_STATE_RUNNING
		found = append(found, task{node: t.NodeId, running: t.GetStatus().GetState() == running && t.DesiredState == running})
	}
	return found, err
}

func (m minidAPI) self(ctx context.Context) (string, bool, error) {
	info, err := m.Local.Info(ctx, &pb.InfoRequest{})
	return info.GetNodeId(), info.GetLeader(), err
}
