package testcluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/agent/faketask"
	"github.com/minid/minid/client"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Images of stories, spelt out as nodes see them, by how they behave.
const (
	steady = "docker.io/library/steady:1" // runs until told to stop
	slow   = "docker.io/library/slow:1"   // takes seconds to pull and to stop
	crash  = "docker.io/library/crash:1"  // ends with code 1 after a while
	absent = "docker.io/library/absent:1" // cannot be pulled
	brief  = "docker.io/library/brief:1"  // ends with code 0 after a while
)

// behaviours of the images.
var behaviours = map[string]faketask.Behaviour{
	slow:   {PrepareFor: 3 * time.Second, StopFor: 4 * time.Second},
	crash:  {RunFor: 7 * time.Second, ExitCode: 1},
	brief:  {PrepareFor: 200 * time.Millisecond, RunFor: 6 * time.Second},
	absent: {PrepareErr: func(int) error { return faketask.ErrRegistry }},
}

// outage is a time in which a node's agent could not be told anything.
type outage struct {
	node        string
	from, until time.Time
}

// Story does random things to a cluster: what users want, and what machines do.
type Story struct {
	*Cluster
	rnd *rand.Rand
	// Told lists what was done, for the report of a failure.
	Told []string
	// services by name, as last asked for; names are never used again.
	services map[string]*pb.ServiceSpec
	jobs     map[string]*pb.ServiceSpec
	networks []*pb.NetworkAttachment
	made     int
	drained  map[string]bool
	ids      map[*Node]string
	outages  []outage
	away     map[*Node]time.Time
	start    time.Time
}

// NewStory forms the cluster of a story.
func NewStory(c *Cluster, seed uint64, managers, workers int) *Story {
	s := &Story{
		Cluster: c, rnd: rand.New(rand.NewPCG(seed, 1)), start: time.Now(),
		services: map[string]*pb.ServiceSpec{}, jobs: map[string]*pb.ServiceSpec{}, drained: map[string]bool{},
		ids: map[*Node]string{}, away: map[*Node]time.Time{},
	}
	c.Behave = faketask.ByImage(behaviours)
	c.Net.Latency = time.Duration(s.rnd.IntN(5)) * time.Millisecond
	c.Form(context.Background(), managers, workers)
	for _, n := range c.Nodes {
		s.ids[n] = s.idOf(n)
	}
	s.makeNetworks()
	return s
}

func (s *Story) idOf(n *Node) string {
	var id string
	if err := n.call(func(api *client.Client) error {
		info, err := api.Local.Info(context.Background(), &pb.InfoRequest{})
		id = info.GetNodeId()
		return err
	}); err != nil {
		s.t.Fatalf("info of %s: %v", n.Name, err)
	}
	return id
}

func (s *Story) tell(format string, args ...any) {
	s.Told = append(s.Told, fmt.Sprintf("%8.3fs  ", time.Since(s.start).Seconds())+fmt.Sprintf(format, args...))
}

// Step does one random thing and lets some time pass.
func (s *Story) Step() {
	steps := []func(){
		s.create, s.create, s.scale, s.roll, s.roll, s.reconnect, s.remove, s.drain, s.activate, s.rebalance,
		s.kill, s.powerOff, s.isolate, s.comeBack, s.comeBack, s.killLeader, s.fillDisk,
	}
	steps[s.rnd.IntN(len(steps))]()
	time.Sleep(time.Duration(s.rnd.IntN(6000)) * time.Millisecond)
}

// want asks the cluster for something. What has no answer in the end may or may
// not have happened, which Settle then reads back.
func (s *Story) want(what string, do func(ctx context.Context, api pb.ControlClient) error) {
	err := s.Control(context.Background(), do)
	if err != nil {
		what += ": " + err.Error()
	}
	s.tell("%s", what)
}

func (s *Story) create() {
	if len(s.services) >= 4 {
		return
	}
	s.made++
	name := fmt.Sprintf("s%d", s.made)
	image := []string{steady, steady, slow, crash}[s.rnd.IntN(4)]
	spec := &pb.ServiceSpec{
		Name: name,
		Task: &pb.TaskSpec{
			Container: &pb.ContainerSpec{Image: image},
			Restart:   &pb.RestartPolicy{Delay: durationpb.New(time.Duration(s.rnd.IntN(3000)) * time.Millisecond)},
		},
		Update: &pb.UpdateConfig{
			Parallelism:   uint64(s.rnd.IntN(3)),
			Monitor:       durationpb.New(time.Second),
			Order:         pb.UpdateConfig_Order(1 + s.rnd.IntN(2)),
			FailureAction: pb.UpdateConfig_FailureAction(1 + s.rnd.IntN(3)),
		},
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: uint64(s.rnd.IntN(7))}},
	}
	if s.rnd.IntN(4) == 0 {
		spec.Mode = &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	}
	s.connect(spec.Task)
	s.services[name] = spec
	s.want(fmt.Sprintf("create %s of %s, order %v, %v", name, image, spec.Update.Order, spec.Mode), func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.CreateService(ctx, &pb.CreateServiceRequest{Spec: spec})
		return err
	})
}

// pick chooses a service by name, empty if there is none.
func (s *Story) pick() string {
	var names []string
	for name := range s.services {
		names = append(names, name)
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return names[s.rnd.IntN(len(names))]
}

func (s *Story) change(what string, edit func(*pb.ServiceSpec)) {
	name := s.pick()
	if name == "" {
		return
	}
	spec := proto.CloneOf(s.services[name])
	edit(spec)
	s.services[name] = spec
	s.want(fmt.Sprintf("%s %s: %v, %s", what, name, spec.Mode, spec.Task.Container.Image), func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.UpdateService(ctx, &pb.UpdateServiceRequest{Ref: name, Spec: spec})
		return err
	})
}

func (s *Story) scale() {
	n := uint64(s.rnd.IntN(8))
	s.change("scale", func(spec *pb.ServiceSpec) {
		if r := spec.GetReplicated(); r != nil {
			r.Replicas = n
		}
	})
}

func (s *Story) roll() {
	image := []string{steady, slow, crash, absent}[s.rnd.IntN(4)]
	s.change("update", func(spec *pb.ServiceSpec) {
		spec.Task.Container.Image = image
		spec.Task.Container.Env = []string{fmt.Sprintf("N=%d", s.rnd.IntN(1000))}
	})
}

func (s *Story) remove() {
	name := s.pick()
	if name == "" {
		return
	}
	delete(s.services, name)
	s.want("remove "+name, func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.RemoveService(ctx, &pb.RemoveRequest{Ref: name})
		return err
	})
}

func (s *Story) rebalance() {
	name := s.pick()
	if name == "" {
		return
	}
	s.want("rebalance "+name, func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.RebalanceService(ctx, &pb.GetRequest{Ref: name})
		return err
	})
}

func (s *Story) drain()    { s.availability(pb.NodeAvailability_NODE_AVAILABILITY_DRAIN) }
func (s *Story) activate() { s.availability(pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE) }

func (s *Story) availability(a pb.NodeAvailability) {
	s.setAvailability(s.Nodes[s.rnd.IntN(len(s.Nodes))], a)
}

func (s *Story) setAvailability(n *Node, a pb.NodeAvailability) {
	deadline := []*durationpb.Duration{nil, durationpb.New(0), durationpb.New(8 * time.Second)}[s.rnd.IntN(3)]
	s.want(fmt.Sprintf("%s: %v, drain deadline %v", n.Name, a, deadline), func(ctx context.Context, api pb.ControlClient) error {
		have, err := api.GetNode(ctx, &pb.GetRequest{Ref: s.ids[n]})
		if err != nil {
			return err
		}
		spec := proto.CloneOf(have.Spec)
		spec.Availability = a
		spec.DrainDeadline = deadline
		_, err = api.UpdateNode(ctx, &pb.UpdateNodeRequest{Ref: n.Name, Spec: spec})
		return err
	})
}

// mayGo reports whether a node can go without the managers losing their majority.
func (s *Story) mayGo(n *Node) bool {
	if _, gone := s.away[n]; gone {
		return false
	}
	managersAway := 0
	for other := range s.away {
		if s.isManager(other) {
			managersAway++
		}
	}
	return !s.isManager(n) || managersAway == 0
}

// isManager: stories have three managers, the first nodes.
func (s *Story) isManager(n *Node) bool { return slices.Index(s.Nodes, n) < 3 }

func (s *Story) lose(what string, how func(*Node)) {
	n := s.Nodes[s.rnd.IntN(len(s.Nodes))]
	s.loseNode(n, what, how)
}

func (s *Story) loseNode(n *Node, what string, how func(*Node)) {
	if !s.mayGo(n) {
		return
	}
	s.tell("%s %s", what, n.Name)
	s.away[n] = time.Now()
	how(n)
}

func (s *Story) kill()     { s.lose("kill", (*Node).Kill) }
func (s *Story) powerOff() { s.lose("power off", (*Node).PowerOff) }
func (s *Story) isolate()  { s.lose("isolate", (*Node).Isolate) }

func (s *Story) killLeader() {
	for _, n := range s.Nodes[:3] {
		if n.Up() && s.leads(n) {
			s.loseNode(n, "kill leader", (*Node).Kill)
			return
		}
	}
}

// fillDisk makes a manager's raft writes fail until it comes back.
func (s *Story) fillDisk() {
	n := s.Nodes[s.rnd.IntN(3)]
	s.loseNode(n, "fill the disk of", func(n *Node) { n.raft.FailWrites(syscall.ENOSPC) })
}

func (s *Story) leads(n *Node) (leads bool) {
	n.call(func(api *client.Client) error {
		info, err := api.Local.Info(context.Background(), &pb.InfoRequest{})
		leads = info.GetLeader()
		return err
	})
	return leads
}

func (s *Story) comeBack() {
	for _, n := range s.Nodes {
		if _, gone := s.away[n]; gone && s.rnd.IntN(2) == 0 {
			s.back(n)
		}
	}
}

func (s *Story) back(n *Node) {
	s.tell("%s comes back", n.Name)
	s.outages = append(s.outages, outage{node: s.ids[n], from: s.away[n], until: time.Now()})
	delete(s.away, n)
	n.raft.FailWrites(nil)
	if !n.Up() {
		n.Start()
	}
	n.Rejoin()
	for other := range s.away { // whom Rejoin must not heal
		if other.Up() {
			other.Isolate()
		}
	}
}

// Quiet ends all trouble: every node is back and active.
func (s *Story) Quiet() {
	for _, n := range s.Nodes {
		if _, gone := s.away[n]; gone {
			s.back(n)
		}
	}
	for _, n := range s.Nodes {
		s.setAvailability(n, pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE)
	}
	s.tell("quiet")
}
