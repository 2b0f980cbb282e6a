package dispatcher

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/minid/minid/proto/minid/v1"
)

// A task's life line grows with every change of its state: no message to an
// agent has room for one, so that it can never be sent or make a difference.
func TestLifeLinesStayWithTheManagers(t *testing.T) {
	life := (&pb.LifeLine{}).ProtoReflect().Descriptor().FullName()
	seen := map[protoreflect.FullName]bool{}
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if m == nil || seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			walk(m.Fields().Get(i).Message())
		}
	}
	walk((&pb.ManagerMessage{}).ProtoReflect().Descriptor())
	if !seen[(&pb.AssignedTask{}).ProtoReflect().Descriptor().FullName()] || seen[life] {
		t.Errorf("managers may send %v", seen)
	}
}
