package realtest

import (
	"slices"
	"time"
)

// Step is one piece of work over one of the ways that are compared, such as one
// round trip, and returns how long it took.
type Step func() (time.Duration, error)

// Turns lets ways take turns, step by step and each of them the first as often,
// so that what else a machine does meets all alike. It returns the median time of
// each way's steps.
func Turns(count int, ways ...Step) ([]time.Duration, error) {
	took := make([][]time.Duration, len(ways))
	for n := range count {
		for i := range ways {
			way := (n + i) % len(ways)
			d, err := ways[way]()
			if err != nil {
				return nil, err
			}
			took[way] = append(took[way], d)
		}
	}
	medians := make([]time.Duration, len(ways))
	for i, all := range took {
		slices.Sort(all)
		medians[i] = all[len(all)/2]
	}
	return medians, nil
}
