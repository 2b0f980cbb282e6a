package scheduler

import (
	"slices"
	"time"
)

// A node is flapping for a service version when that failed on it maxFailures
// times within failureWindow; Swarm's numbers.
const (
	maxFailures   = 5
	failureWindow = 5 * time.Minute
)

// AddFailure notes that a task of a service version failed on a node. A newer
// version starts with a clean record; failures of older ones are ignored.
func (s *Set) AddFailure(serviceID string, version uint64, nodeID string, at time.Time) {
	v := s.service(serviceID)
	if version < v.version {
		return
	}
	if version > v.version || v.failures == nil {
		v.version, v.failures = version, map[string][]time.Time{}
	}
	// Failures are not told in the order of their times when a leader starts.
	times := append(v.failures[nodeID], at)
	slices.SortFunc(times, time.Time.Compare)
	if len(times) > maxFailures {
		times = slices.Delete(times, 0, len(times)-maxFailures)
	}
	v.failures[nodeID] = times
}

// flapping returns the nodes that should get tasks of a service version last,
// and forgets failures that no longer matter.
func (s *Set) flapping(v *service, version uint64, now time.Time) map[*node]bool {
	var nodes map[*node]bool
	for id, times := range v.failures {
		if now.Sub(times[len(times)-1]) > failureWindow {
			delete(v.failures, id)
			continue
		}
		n := s.nodes[id]
		if n == nil || v.version != version || len(times) < maxFailures || now.Sub(times[0]) > failureWindow {
			continue
		}
		if nodes == nil {
			nodes = map[*node]bool{}
		}
		nodes[n] = true
	}
	return nodes
}
