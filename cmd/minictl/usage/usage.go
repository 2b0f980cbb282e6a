// Package usage makes what people ask for out of samples of counters: how much
// each node and task uses per second.
package usage

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Rate is what was used between two samples.
type Rate struct {
	// CPUs is 1 for one that was busy all the time.
	CPUs float64
	// Bytes per second, of disks and of the network.
	Read, Written, Received, Sent float64
}

// Between is the rate between two samples. A counter that is smaller than before
// began anew in between: what it counted until then is lost, so it rates as 0.
// It fails when no time passed.
func Between(first, last *pb.Usage, passed time.Duration) (rate Rate, ok bool) {
	if first == nil || last == nil || passed <= 0 {
		return Rate{}, false
	}
	per := func(a, b uint64) float64 { return float64(b-min(a, b)) / passed.Seconds() }
	return Rate{
		CPUs:     per(first.CpuNs, last.CpuNs) / 1e9,
		Read:     per(first.ReadBytes, last.ReadBytes),
		Written:  per(first.WrittenBytes, last.WrittenBytes),
		Received: per(first.ReceivedBytes, last.ReceivedBytes),
		Sent:     per(first.SentBytes, last.SentBytes),
	}, true
}

func (r Rate) plus(o Rate) Rate {
	return Rate{r.CPUs + o.CPUs, r.Read + o.Read, r.Written + o.Written, r.Received + o.Received, r.Sent + o.Sent}
}

// Row is a node, or a task, as of its last sample.
type Row struct {
	NodeID, NodeName string
	// TaskID, Service and Slot are those of a task; a node has none.
	TaskID, Service string
	Slot            uint64
	At              time.Time
	// Usage is the sample; its counters are totals. It is never nil.
	Usage *pb.Usage
	// Rate is what happened since the sample before; Rated tells whether there
	// was one.
	Rate  Rate
	Rated bool
	// NodeMemory is what a task without a limit may have at most, in bytes.
	NodeMemory uint64
	// Tasks of a node.
	Tasks int
	// Trouble is why a node gave no sample; such a row has no numbers.
	Trouble string
}

// Name is a node's host name, or SERVICE.SLOT, as task lists have it.
func (r Row) Name() string {
	switch {
	case r.TaskID == "":
		return cmp.Or(r.NodeName, r.NodeID)
	case r.Slot == 0:
		return r.Service + "." + r.NodeID
	}
	return fmt.Sprintf("%s.%d", r.Service, r.Slot)
}

// CPULimit is how many CPUs the row may use or has, 0 for any number.
func (r Row) CPULimit() float64 { return float64(r.Usage.NanoCpus) / 1e9 }

// MemoryShare is the part of its memory that the row uses, 1 for all: of the
// limit, or of the node where there is none.
func (r Row) MemoryShare() float64 {
	most := cmp.Or(r.Usage.MemoryLimitBytes, r.NodeMemory)
	if most == 0 {
		return 0
	}
	return float64(r.Usage.MemoryBytes) / float64(most)
}

// orders tell how much of something a row uses.
var orders = []struct {
	name string
	of   func(Row) float64
}{
	{"cpu", func(r Row) float64 { return r.Rate.CPUs }},
	{"memory", func(r Row) float64 { return float64(r.Usage.MemoryBytes) }},
	{"net", func(r Row) float64 { return r.Rate.Received + r.Rate.Sent }},
	{"io", func(r Row) float64 { return r.Rate.Read + r.Rate.Written }},
	{"name", func(Row) float64 { return 0 }},
}

// Orders are the names that Sort knows, the usual one first.
func Orders() []string {
	var names []string
	for _, o := range orders {
		names = append(names, o.name)
	}
	return names
}

// Sort puts those that use most first, and those that use the same by name. It
// tells whether there is such an order.
func Sort(rows []Row, order string) bool {
	for _, o := range orders {
		if o.name == order {
			slices.SortFunc(rows, func(a, b Row) int { return cmp.Or(-cmp.Compare(o.of(a), o.of(b)), byName(a, b)) })
			return true
		}
	}
	return false
}

func byName(a, b Row) int {
	return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.NodeName, b.NodeName),
		cmp.Compare(a.NodeID, b.NodeID), cmp.Compare(a.TaskID, b.TaskID))
}
