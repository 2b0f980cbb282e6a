package controlapi

import (
	"context"
	"fmt"
	"slices"

	"github.com/distribution/reference"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
	"github.com/minid/minid/store"
)

// CreateService checks a spec, makes its defaults explicit and stores it.
func (s *Server) CreateService(ctx context.Context, req *pb.CreateServiceRequest) (*pb.CreateServiceResponse, error) {
	view := s.cfg.State.View()
	spec, err := admit(view, req.GetSpec())
	if err != nil {
		return nil, prefixed(err, "create service %s", req.GetSpec().GetName())
	}
	serviceID := id.New()
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: serviceID, Spec: spec}}})
	if err != nil {
		return nil, err
	}
	view = s.cfg.State.View()
	return &pb.CreateServiceResponse{Service: answered(view, serviceID), Warnings: serviceWarnings(view, serviceID, spec)}, nil
}

// UpdateService replaces a service's spec. Registry credentials that the
// request leaves out, as answers do, stay, unless the registry changes.
func (s *Server) UpdateService(ctx context.Context, req *pb.UpdateServiceRequest) (*pb.UpdateServiceResponse, error) {
	view := s.cfg.State.View()
	old, err := findService(view, req.GetRef())
	if err != nil {
		return nil, err
	}
	spec, err := admit(view, req.GetSpec())
	if err != nil {
		return nil, prefixed(err, "update service %s", old.GetSpec().GetName())
	}
	keepPullAuth(spec.Task.Container, old.GetSpec().GetTask().GetContainer())
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_UpdateServiceSpec{UpdateServiceSpec: &pb.UpdateServiceSpec{
		Id: old.Id, IfVersion: req.GetIfVersion(), Spec: spec,
	}}})
	if err != nil {
		return nil, err
	}
	view = s.cfg.State.View()
	return &pb.UpdateServiceResponse{Service: answered(view, old.Id), Warnings: serviceWarnings(view, old.Id, spec)}, nil
}

// admit returns the normal form of a spec, or what is wrong with it.
func admit(view store.View, spec *pb.ServiceSpec) (*pb.ServiceSpec, error) {
	spec, err := normalService(spec)
	if err != nil {
		return nil, err
	}
	if err := resolveFiles(view, spec.Task.Container); err != nil {
		return nil, err
	}
	if err := resolveNetworks(view, spec.Task.Networks); err != nil {
		return nil, err
	}
	return spec, firstOf(checkService(spec), checkReach(view, spec.Task.Ports))
}

// keepPullAuth copies credentials from the old spec for the same registry only.
func keepPullAuth(container, old *pb.ContainerSpec) {
	if len(container.PullAuth) == 0 && registryOf(container.Image) == registryOf(old.GetImage()) {
		container.PullAuth = old.GetPullAuth()
	}
}

// registryOf is the host that an image comes from, empty if it cannot be told.
func registryOf(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

// answered is the public form of a service with its status. It may be gone
// again already, and is nil then.
func answered(view store.View, serviceID string) *pb.Service {
	service := view.Service(serviceID)
	if service == nil {
		return nil
	}
	public := publicService(service)
	public.Status = countTasks(view, service, eligible(view))
	return public
}

// serviceWarnings tells what is allowed but may not be meant, or cannot work yet.
func serviceWarnings(view store.View, serviceID string, spec *pb.ServiceSpec) []string {
	warnings := append(portWarnings(view, serviceID, spec), orderWarnings(spec)...)
	var networks []*pb.Network
	for _, a := range spec.GetTask().GetNetworks() {
		networks = append(networks, view.Network(a.NetworkId))
	}
	if slices.ContainsFunc(spec.GetTask().GetPorts(), store.Ingress) {
		networks = append(networks, view.Ingress())
	}
	for _, n := range networks {
		if problem := n.GetAllocation().GetProblem(); problem != "" {
			warnings = append(warnings, fmt.Sprintf("network %s: %s", n.GetSpec().GetName(), problem))
		}
	}
	return warnings
}

// portWarnings names the services that publish the same ports of their tasks'
// nodes: that is allowed, but their tasks never share a node.
func portWarnings(view store.View, serviceID string, spec *pb.ServiceSpec) []string {
	mine := map[portKey]bool{}
	for _, p := range spec.GetTask().GetPorts() {
		if p.Published != 0 && p.Mode == pb.PortConfig_MODE_HOST {
			mine[portKey{p.Published, p.Protocol}] = true
		}
	}
	if len(mine) == 0 {
		return nil
	}
	var warnings []string
	for other := range view.Services() {
		if other.Id == serviceID || other.Removing {
			continue
		}
		for _, p := range other.GetSpec().GetTask().GetPorts() {
			if mine[portKey{p.Published, p.Protocol}] {
				warnings = append(warnings, fmt.Sprintf("port %s is also published by service %s: their tasks cannot share a node",
					portName(p.Published, p.Protocol), other.GetSpec().GetName()))
			}
		}
	}
	slices.Sort(warnings)
	return warnings
}

// GetService finds a service by id, name or id prefix.
func (s *Server) GetService(_ context.Context, req *pb.GetRequest) (*pb.Service, error) {
	view := s.cfg.State.View()
	service, err := findService(view, req.GetRef())
	if err != nil {
		return nil, err
	}
	return answered(view, service.Id), nil
}

// ListServices returns the services that pass the filters, with their status.
func (s *Server) ListServices(_ context.Context, req *pb.ListRequest) (*pb.ListServicesResponse, error) {
	view := s.cfg.State.View()
	passes, err := serviceFilters(view).compile(req.GetFilters())
	if err != nil {
		return nil, err
	}
	nodes := eligible(view)
	answer := &pb.ListServicesResponse{}
	for service := range view.Services() {
		if !passes(service) {
			continue
		}
		public := listedService(service)
		public.Status = countTasks(view, service, nodes)
		answer.Services = append(answer.Services, public)
	}
	return answer, nil
}

// RemoveService marks a service; its tasks are stopped, then it goes.
func (s *Server) RemoveService(ctx context.Context, req *pb.RemoveRequest) (*pb.RemoveResponse, error) {
	service, err := findService(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: service.Id}}})
	if err != nil {
		return nil, err
	}
	return &pb.RemoveResponse{Id: service.Id}, nil
}

// eligible returns the nodes that get tasks of global services.
func eligible(view store.View) []*pb.Node {
	var nodes []*pb.Node
	for n := range view.Nodes() {
		if n.GetStatus().GetState() == pb.NodeState_NODE_STATE_READY &&
			n.GetSpec().GetAvailability() == pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// countTasks counts a service's tasks, looking at no others. A global service
// wants a task on every node that may have one, and those that it has.
func countTasks(view store.View, service *pb.Service, nodes []*pb.Node) *pb.ServiceStatus {
	if store.IsJob(service.GetSpec()) {
		return countJob(view, service)
	}
	status := &pb.ServiceStatus{}
	wantedOn := map[string]bool{}
	for t := range view.TasksByService(service.Id) {
		if t.DesiredState > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		state := t.GetStatus().GetState()
		if state == pb.TaskState_TASK_STATE_RUNNING {
			status.Running++
		}
		if state <= pb.TaskState_TASK_STATE_RUNNING {
			wantedOn[t.NodeId] = true
		}
	}
	switch {
	case service.Removing:
	case service.GetSpec().GetGlobal() == nil:
		status.Desired = service.GetSpec().GetReplicated().GetReplicas()
	default:
		for _, n := range nodes {
			if ok, _ := scheduler.StillFits(nil, n, service.GetSpec().GetTask()); ok {
				wantedOn[n.Id] = true
			}
		}
		status.Desired = uint64(len(wantedOn))
	}
	return status
}

// prefixed adds what was being done to an error, which keeps its class.
func prefixed(err error, format string, args ...any) error {
	f, ok := err.(*fault.Error)
	if !ok {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
	}
	out := *f
	out.Message = fmt.Sprintf(format, args...) + ": " + f.Message
	return &out
}
