package events

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/minid/minid/proto/minid/v1"
)

// summary is what a new service is: "image nginx, 3 replicas".
func summary(s *pb.ServiceSpec) string {
	text := "image " + image(s)
	switch m := s.GetMode().(type) {
	case *pb.ServiceSpec_Replicated:
		return text + ", " + plural(m.Replicated.GetReplicas(), "replica")
	case *pb.ServiceSpec_Global:
		return text + ", one per node"
	case *pb.ServiceSpec_ReplicatedJob, *pb.ServiceSpec_GlobalJob:
		return text + ", a job"
	}
	return text
}

func plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// image is a service's, without its digest.
func image(s *pb.ServiceSpec) string {
	name, _, _ := strings.Cut(s.GetTask().GetContainer().GetImage(), "@")
	return name
}

// specWords says how two specs differ: images and replicas by value, all else
// by name, for values may be secret.
func specWords(old, new *pb.ServiceSpec) string {
	var parts []string
	if was, is := image(old), image(new); was != is {
		parts = append(parts, "image "+was+" → "+is)
	} else if old.GetTask().GetContainer().GetImage() != new.GetTask().GetContainer().GetImage() {
		parts = append(parts, "image "+is+" has another digest")
	}
	if was, is := old.GetReplicated(), new.GetReplicated(); was.GetReplicas() != is.GetReplicas() && was != nil && is != nil {
		parts = append(parts, fmt.Sprintf("replicas %d → %d", was.Replicas, is.Replicas))
	}
	var others []string
	others = append(others, differences(old, new, "task", "replicated")...)
	others = append(others, differences(old.GetTask(), new.GetTask(), "container")...)
	others = append(others, differences(old.GetTask().GetContainer(), new.GetTask().GetContainer(), "image")...)
	if len(others) > 0 {
		parts = append(parts, strings.Join(others, ", ")+" changed")
	}
	return strings.Join(parts, ", ")
}

// changed names the settings in which two specs of a kind differ.
func changed(old, new proto.Message) string {
	return strings.Join(differences(old, new), ", ") + " changed"
}

// differences names the fields in which two messages differ, but for some.
func differences(old, new proto.Message, but ...protoreflect.Name) []string {
	var names []string
	a, b := old.ProtoReflect(), new.ProtoReflect()
	fields := b.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if a.Has(f) == b.Has(f) && a.Get(f).Equal(b.Get(f)) || slices.Contains(but, f.Name()) {
			continue
		}
		names = append(names, strings.ReplaceAll(string(f.Name()), "_", " "))
	}
	return names
}
