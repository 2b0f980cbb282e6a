package orchestrator

import (
	"slices"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
	"github.com/minid/minid/store"
)

// Fits tells whether a node satisfies what a task spec demands of labels,
// role and size, whatever else runs there. It must be pure.
type Fits func(node *pb.Node, spec *pb.TaskSpec) bool

// stillFits asks the scheduler.
func stillFits(node *pb.Node, spec *pb.TaskSpec) bool {
	ok, _ := scheduler.StillFits(&pb.Task{}, node, spec)
	return ok
}

// fitsOn remembers what fits said about a node as it was, per spec version.
type fitsOn struct {
	node    string
	version uint64
}

type fitAnswer struct {
	node *pb.Node
	ok   bool
}

// fitsNow tells whether a node fits the present version.
func (s *set) fitsNow(n *pb.Node) bool { return s.fitsVersion(n, s.service.SpecVersion) }

// NeedsReplacement tells whether a task that runs on a node and was made from
// old has to make room for one made from next. A change of restart policy,
// pull credentials or ports of mode ingress never needs it: managers look the
// first up in the present spec, the image is there already, and such ports are
// the nodes' and not the task's. Nor does a change of placement (or of
// the image's known platforms) where the node still fits. Everything else
// does, log settings too, as they take effect when a container is made.
func NeedsReplacement(old, next *pb.TaskSpec, node *pb.Node, fits Fits) bool {
	return templateDiffers(old, next) || node == nil || !fits(node, next)
}

// templateDiffers compares what a running task is made from.
func templateDiffers(a, b *pb.TaskSpec) bool {
	return a != b && !proto.Equal(template(a), template(b))
}

func template(spec *pb.TaskSpec) *pb.TaskSpec {
	t := proto.CloneOf(spec)
	if t == nil {
		return nil
	}
	t.Restart, t.Placement = nil, nil
	t.Ports = slices.DeleteFunc(t.Ports, store.Ingress)
	if t.Container != nil {
		t.Container.PullAuth, t.Container.Platforms = nil, nil
	}
	return t
}

// heldByOthers are the scheduler's filters that refuse a node for what other
// tasks hold there.
var heldByOthers = map[string]bool{"resources": true, "ports": true, "max-replicas": true}
