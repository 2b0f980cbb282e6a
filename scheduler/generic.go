package scheduler

import (
	"cmp"
	"fmt"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
)

// genericNeed is so many of a kind of generic resource.
type genericNeed struct {
	kind  string
	count int64
}

// genericNeeds sums up requests by kind, in the order of kinds.
func genericNeeds(requests []*pb.GenericRequest) []genericNeed {
	var needs []genericNeed
	for _, r := range requests {
		if r.GetCount() <= 0 {
			continue
		}
		if i := slices.IndexFunc(needs, func(n genericNeed) bool { return n.kind == r.GetKind() }); i >= 0 {
			needs[i].count += r.GetCount()
			continue
		}
		needs = append(needs, genericNeed{r.GetKind(), r.GetCount()})
	}
	slices.SortFunc(needs, func(a, b genericNeed) int { return cmp.Compare(a.kind, b.kind) })
	return needs
}

// genericOf is how many of each kind a node offers, nil for none.
func genericOf(p *pb.Node) map[string]int64 {
	var offers map[string]int64
	for _, r := range p.GetDescription().GetResources().GetGeneric() {
		if offers == nil {
			offers = map[string]int64{}
		}
		count := r.GetCount()
		if len(r.GetIds()) > 0 {
			count = int64(len(r.GetIds()))
		}
		offers[r.GetKind()] += count
	}
	return offers
}

// takeGeneric books needs, times times: 1 to hold, -1 to release.
func (n *node) takeGeneric(needs []genericNeed, times int64) {
	for _, need := range needs {
		if n.taken == nil {
			n.taken = map[string]int64{}
		}
		if n.taken[need.kind] += times * need.count; n.taken[need.kind] == 0 {
			delete(n.taken, need.kind)
		}
	}
}

// lack is how many of a need the node is short of, 0 or less for none.
func (n *node) lack(need genericNeed) int64 {
	return need.count - (n.generic[need.kind] - n.taken[need.kind])
}

func enoughGeneric(q *query, n *node) bool {
	for _, need := range q.need.generic {
		if n.lack(need) > 0 {
			return false
		}
	}
	return true
}

func whyEnoughGeneric(q *query, n *node) refusal {
	for _, need := range q.need.generic {
		short := n.lack(need)
		switch {
		case short <= 0:
			continue
		case n.generic[need.kind] == 0:
			what := "no generic resource " + need.kind
			return refusal{reason: reason{"has " + what, "have " + what}}
		}
		what := fmt.Sprintf("%d more of the generic resource %s", short, need.kind)
		return refusal{reason: reason{"needs " + what, "need " + what}}
	}
	return refusal{}
}
