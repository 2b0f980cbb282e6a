package network

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/internal/realtest"
	pb "github.com/minid/minid/proto/minid/v1"
)

// The cluster that the benchmarks are about: all services are on one network.
const (
	benchNodes    = 100
	benchServices = 5000
	benchReplicas = 5
	benchLocals   = 10
)

func benchNode(i int) string    { return fmt.Sprint("n", i+1) }
func benchService(i int) string { return fmt.Sprint("s", i) }

// benchVIP and benchAddress share the network 10.0.0.0/12.
func benchVIP(service int) string { return fmt.Sprintf("10.1.%d.%d", service>>8, service&255) }

func benchAddress(endpoint int) string {
	return fmt.Sprintf("10.%d.%d.%d", 2+endpoint>>16, endpoint>>8&255, endpoint&255)
}

// benchEndpoint is a service's task; replica 0 of the first services is here.
func benchEndpoint(service, replica int, serving bool) *pb.Assignment {
	i := service*benchReplicas + replica
	node := benchNode(1 + i%(benchNodes-1))
	if service < benchLocals && replica == 0 {
		node = benchNode(0)
	}
	return &pb.Assignment{Kind: &pb.Assignment_Endpoint{Endpoint: &pb.NetworkEndpoint{
		TaskId: benchTask(service, replica), NetworkId: "web", ServiceId: benchService(service), Slot: uint64(replica + 1),
		NodeId: node, Addresses: []string{benchAddress(i)}, Serving: serving,
	}}}
}

func benchTask(service, replica int) string { return fmt.Sprintf("s%d.%d", service, replica+1) }

// benchNetwork is the nodes and the network with nothing on it.
func benchNetwork() []*pb.Assignment {
	network := func(id string, vni uint32, subnet string, ingress bool) *pb.Assignment {
		return &pb.Assignment{Kind: &pb.Assignment_Network{Network: &pb.AssignedNetwork{
			Id: id, Spec: &pb.NetworkSpec{Name: id, Ingress: ingress},
			Allocation: &pb.NetworkAllocation{Vni: vni, Pools: []*pb.AddressPool{{Subnet: subnet}}},
		}}}
	}
	set := []*pb.Assignment{network("web", 4097, "10.0.0.0/12", false), network("ingress", 4096, "10.16.0.0/12", true)}
	for i := range benchNodes {
		set = append(set, &pb.Assignment{Kind: &pb.Assignment_Peer{Peer: &pb.NetworkPeer{
			NodeId: benchNode(i), Name: benchNode(i), DataPathAddr: fmt.Sprint("192.0.2.", i+1), MeshNumber: uint32(i + 1), DataPathMtu: 1500,
		}}})
	}
	return set
}

// benchCluster is all of it.
func benchCluster() []*pb.Assignment {
	set := benchNetwork()
	for s := range benchServices {
		set = append(set, &pb.Assignment{Kind: &pb.Assignment_Service{Service: &pb.NetworkService{
			ServiceId: benchService(s), NetworkId: "web", Name: benchService(s), Vips: []string{benchVIP(s)},
		}}})
		for r := range benchReplicas {
			set = append(set, benchEndpoint(s, r, true))
		}
	}
	return set
}

// openNode opens the engine of node n1, which knows the nodes and the network.
func openNode(b *testing.B) *Engine {
	b.Helper()
	realtest.NeedRoot(b)
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "path0"}}
	check(netlink.LinkAdd(link))
	addr, err := netlink.ParseAddr("192.0.2.1/24")
	check(err)
	check(netlink.AddrAdd(link, addr))
	check(netlink.LinkSetUp(link))
	e, err := Open(Config{DataDir: b.TempDir(), RunDir: b.TempDir()})
	check(err)
	b.Cleanup(func() {
		check(e.Destroy(context.Background()))
		check(netlink.LinkDel(link))
	})
	e.Join(benchNode(0))
	e.Replace(benchNetwork())
	e.apply()
	return e
}

func attachBench(b *testing.B, e *Engine, service int) {
	b.Helper()
	_, _, err := e.Attach(b.Context(), &pb.TaskNetwork{
		TaskId: benchTask(service, 0), ServiceId: benchService(service),
		Addresses: []*pb.TaskAddress{{NetworkId: "web", Addresses: []string{benchAddress(service*benchReplicas) + "/12"}}},
	})
	if err != nil {
		b.Fatal(err)
	}
}

// mustBeWhole fails if any part is not as it should be.
func mustBeWhole(b *testing.B, e *Engine) {
	b.Helper()
	e.kernel.Lock()
	defer e.kernel.Unlock()
	for part, err := range e.broken {
		b.Fatal(part, err)
	}
}

// BenchmarkFullLoad takes in 5000 services with 25,000 tasks on 100 nodes, where
// 10 tasks are here: names, neighbours and each task's balancer.
func BenchmarkFullLoad(b *testing.B) {
	set := benchCluster()
	e := openNode(b)
	for i := range benchLocals {
		attachBench(b, e, i)
	}
	var busy time.Duration
	for b.Loop() {
		before := processor(b)
		e.Replace(set)
		e.apply()
		b.StopTimer()
		busy += processor(b) - before
		mustBeWhole(b, e)
		e.Replace(benchNetwork())
		e.apply()
		e.kernel.Lock()
		for _, p := range e.balancers { // its slots are gone, as in a new task
			if err := p.Sweep(); err != nil {
				b.Fatal(err)
			}
		}
		e.kernel.Unlock()
		b.StartTimer()
	}
	b.ReportMetric(float64(busy.Milliseconds())/float64(b.N), "cpu-ms/op")
}

// processor is how long processors were busy for this process.
func processor(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReplaceSame is a manager's full set after the connection to it was
// lost, with nothing new.
func BenchmarkReplaceSame(b *testing.B) {
	set := benchCluster()
	e := openNode(b)
	for i := range benchLocals {
		attachBench(b, e, i)
	}
	e.Replace(set)
	e.apply()
	for b.Loop() {
		e.Replace(set)
		e.apply()
	}
	mustBeWhole(b, e)
}

// BenchmarkEndpointChange takes single tasks of such a cluster out of service
// and in again, while the engine runs with all it does beside: until all
// balancers here have it. Each round is 200 changes.
func BenchmarkEndpointChange(b *testing.B) {
	e := openNode(b)
	for i := range benchLocals {
		attachBench(b, e, i)
	}
	e.Replace(benchCluster())
	e.apply()
	ctx, stop := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	var took []time.Duration
	for b.Loop() {
		for i := range 200 {
			service := benchLocals + i/2
			began := time.Now()
			e.Change([]*pb.Assignment{benchEndpoint(service, 2, i%2 == 1)}, nil)
			for !e.settled() {
				time.Sleep(50 * time.Microsecond)
			}
			took = append(took, time.Since(began))
			time.Sleep(rand.N(10 * time.Millisecond)) // at any time of sweeps and checks
		}
	}
	stop()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	mustBeWhole(b, e)
	reportTimes(b, "change", took)
}

// settled tells whether all that was said is in the kernel.
func (e *Engine) settled() bool {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	var dirty bool
	e.view(func(s *State) { dirty = s.dirty.Any() })
	return !dirty
}

// BenchmarkTasks starts and ends 100 tasks.
func BenchmarkTasks(b *testing.B) {
	const tasks = 100
	e := openNode(b)
	var attach, detach []time.Duration
	var held time.Duration
	for b.Loop() {
		for i := range tasks {
			began := time.Now()
			attachBench(b, e, i)
			attach = append(attach, time.Since(began))
		}
		all := time.Now()
		for i := range tasks {
			began := time.Now()
			if err := e.Detach(b.Context(), benchTask(i, 0)); err != nil {
				b.Fatal(err)
			}
			detach = append(detach, time.Since(began))
		}
		held += time.Since(all)
	}
	mustBeWhole(b, e)
	reportTimes(b, "attach", attach)
	reportTimes(b, "detach", detach)
	b.ReportMetric(float64(held.Milliseconds())/float64(b.N), "ms/100-detached")
}

func reportTimes(b *testing.B, what string, took []time.Duration) {
	slices.Sort(took)
	for _, p := range []int{50, 99} {
		at := took[len(took)*p/100]
		b.ReportMetric(float64(at.Microseconds())/1000, fmt.Sprintf("%s-p%d-ms", what, p))
	}
}
