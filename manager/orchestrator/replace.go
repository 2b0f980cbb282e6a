package orchestrator

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

// NeedsReplacement tells whether a task that runs on a node and was made from
// old has to make room for one made from next. A change of restart policy or
// pull credentials never needs it: managers look the former up in the present
// spec, and the image is there already. Nor does a change of placement (or of
// the image's known platforms) where the node still fits. Everything else
// does, log settings too, as they take effect when a container is made.
func NeedsReplacement(old, next *pb.TaskSpec, node *pb.Node, fits Fits) bool {
	return templateDiffers(old, next) || node == nil || fits != nil && !fits(node, next)
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
	if t.Container != nil {
		t.Container.PullAuth, t.Container.Platforms = nil, nil
	}
	return t
}

// heldByOthers are the scheduler's filters that refuse a node for what other
// tasks hold there.
var heldByOthers = map[string]bool{"resources": true, "ports": true, "replicas": true}
