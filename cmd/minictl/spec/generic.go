package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// genericList is --generic-resource: what a task needs of the node's generic
// resources, each kind once.
func genericList() listFlag {
	return listFlag{name: "generic-resource", usage: "generic resource KIND=N set aside", key: "kind", add: addGeneric, remove: removeGeneric}
}

func addGeneric(s *pb.ServiceSpec, v string, _ Environment) error {
	kind, number, _ := strings.Cut(v, "=")
	n, err := strconv.ParseInt(number, 10, 32)
	if kind == "" || err != nil || n < 1 {
		return fmt.Errorf("expected KIND=N, with N from 1 on")
	}
	if err := removeGeneric(s, kind); err != nil {
		return err
	}
	r := resources(s)
	r.Generic = append(r.Generic, &pb.GenericRequest{Kind: kind, Count: n})
	slices.SortFunc(r.Generic, func(a, b *pb.GenericRequest) int { return strings.Compare(a.Kind, b.Kind) })
	return nil
}

func removeGeneric(s *pb.ServiceSpec, kind string) error {
	r := resources(s)
	r.Generic = slices.DeleteFunc(r.Generic, func(have *pb.GenericRequest) bool { return have.Kind == kind })
	return nil
}
