package main

import (
	"fmt"

	pb "github.com/minid/minid/proto/minid/v1"
)

// genericText is what a node offers: "gpu=2 (g0, g1), seat=4".
func genericText(list []*pb.GenericResource) string {
	return joinComma(namesOf(list, func(r *pb.GenericResource) string {
		text := fmt.Sprintf("%s=%d", r.Kind, r.Count)
		if len(r.Ids) > 0 {
			text += " (" + joinComma(r.Ids) + ")"
		}
		return text
	}))
}

// requestText is what a task needs: "gpu=1, seat=2".
func requestText(list []*pb.GenericRequest) string {
	return joinComma(namesOf(list, func(r *pb.GenericRequest) string { return fmt.Sprintf("%s=%d", r.Kind, r.Count) }))
}
