package main

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// usage pretends to measure: node N uses N halves of a CPU, a task a quarter of
// one per slot, and everything grows by two seconds' worth with each sample.
func (a *attachment) usage(state *store.State, node string) {
	number := uint64(node[4] - '0')
	for n := uint64(1); ; n++ {
		sample := &pb.NodeUsage{At: timestamppb.New(epoch.Add(time.Duration(n) * 2 * time.Second)), Total: &pb.Usage{
			CpuNs: n * number * 1e9, NanoCpus: 2e9, MemoryBytes: number << 30, MemoryLimitBytes: 4 << 30, Pids: 100,
			ReceivedBytes: n * 2000, SentBytes: n * 4000, ReadBytes: n * 6000, WrittenBytes: n * 8e6,
		}}
		for t := range state.View().TasksByNode(node) {
			used := &pb.Usage{CpuNs: n * t.Slot * 5e8, MemoryBytes: (4 - t.Slot) << 20, Pids: 3, SentBytes: n * 3000 / t.Slot, WrittenBytes: n * 2048}
			if t.Slot == 2 {
				used.NanoCpus, used.MemoryLimitBytes = 5e8, 8<<20
			}
			if t.Status.State == pb.TaskState_TASK_STATE_RUNNING {
				sample.Tasks = append(sample.Tasks, &pb.TaskUsage{TaskId: t.Id, Usage: used})
			}
		}
		select {
		case a.up <- &pb.AttachUp{Kind: &pb.AttachUp_Usage{Usage: sample}}:
		case <-a.done:
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
