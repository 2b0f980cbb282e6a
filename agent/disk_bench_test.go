package agent

import (
	"fmt"
	"path/filepath"
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

// BenchmarkSaveNetwork writes a full set with 5,000 services and 25,000
// endpoints, and then one endpoint's change.
func BenchmarkSaveNetwork(b *testing.B) {
	set := &pb.AssignmentSet{Sequence: 1}
	for i := range 5000 {
		service := fmt.Sprintf("service-with-a-long-id-%d", i)
		set.Items = append(set.Items, &pb.Assignment{Kind: &pb.Assignment_Service{Service: &pb.NetworkService{
			ServiceId: service, NetworkId: "network-with-a-long-id", Name: service, Vips: []string{"10.0.0.1"},
		}}})
		for slot := range uint64(5) {
			set.Items = append(set.Items, &pb.Assignment{Kind: &pb.Assignment_Endpoint{Endpoint: &pb.NetworkEndpoint{
				TaskId: fmt.Sprintf("task-with-a-long-id-%d-%d", i, slot), NetworkId: "network-with-a-long-id", ServiceId: service,
				Slot: slot, NodeId: "node-with-a-long-id", Addresses: []string{"10.0.0.2"}, Serving: true,
			}}})
		}
	}
	d, err := openDisk(filepath.Join(b.TempDir(), "db"))
	if err != nil {
		b.Fatal(err)
	}
	defer d.close()
	have := newSet(set)
	b.Run("set", func(b *testing.B) {
		for b.Loop() {
			if err := d.saveNetwork(have.network); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("change", func(b *testing.B) {
		for b.Loop() {
			if err := d.saveDiff(&pb.AssignmentDiff{Put: set.Items[1:2]}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			if s, err := d.load(); err != nil || len(s.assignments.network) != len(set.Items) {
				b.Fatal(err)
			}
		}
	})
}
