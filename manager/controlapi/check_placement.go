package controlapi

import (
	"regexp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// kindPattern is that of the kinds of generic resources, as minid's
// --generic-resource has it.
var kindPattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`)

func checkGeneric(requests []*pb.GenericRequest) error {
	seen := map[string]bool{}
	for _, r := range requests {
		switch {
		case !kindPattern.MatchString(r.GetKind()):
			return invalid("generic-resource %q: a kind begins with a letter and has only letters, digits, '-' and '_'", r.GetKind()).
				WithTry("--generic-resource gpu=1")
		case r.GetCount() < 1:
			return invalid("generic-resource %s: %d are too few, 1 is the least", r.GetKind(), r.GetCount()).
				WithTry("--generic-resource %s=1", r.GetKind())
		case seen[r.GetKind()]:
			return invalid("generic-resource %s: it is given twice", r.GetKind())
		}
		seen[r.GetKind()] = true
	}
	return nil
}

func checkStrategy(strategy pb.PlacementStrategy) error {
	if pb.PlacementStrategy_name[int32(strategy)] == "" {
		return fault.New(fault.Invalid, "update cluster: there is no placement strategy %d", strategy).
			WithTry("minictl swarm update --placement-strategy spread|binpack")
	}
	return nil
}
