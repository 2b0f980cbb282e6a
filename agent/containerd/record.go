package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/minid/minid/agent/task"
	pb "github.com/minid/minid/proto/minid/v1"
)

// The labels of containers, for those who look with other tools.
const (
	labelService   = "minid.service"
	labelServiceID = "minid.service.id"
	labelSlot      = "minid.task.slot"
	labelNode      = "minid.node.id"
)

const extension = "minid.task"

// record is what minid knows of a container beyond containerd. It is stored in
// the container and changes when ports are chosen and when the process ends.
type record struct {
	// BootID tells a container of this boot from one that a restart of the
	// host ended.
	BootID      string           `json:"boot"`
	Address     string           `json:"address"`
	ImageDigest string           `json:"digest"`
	Image       string           `json:"image"`
	Ports       []*pb.PortConfig `json:"ports,omitempty"`
	StopSignal  string           `json:"stopSignal,omitempty"`
	TTY         bool             `json:"tty,omitempty"`
	Grant       *grant           `json:"grant,omitempty"`
	LogSize     int64            `json:"logSize,omitempty"`
	LogFiles    uint32           `json:"logFiles,omitempty"`
	// Health is the check in force: the image's and the service's.
	Health *pb.HealthConfig `json:"health,omitempty"`
	Exit   *exit            `json:"exit,omitempty"`
}

type exit struct {
	Code  int32     `json:"code"`
	OOM   bool      `json:"oom,omitempty"`
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"`
}

func (rec *record) logConfig() *pb.LogConfig {
	return &pb.LogConfig{MaxSizeBytes: rec.LogSize, MaxFiles: rec.LogFiles}
}

// observe is what a record alone tells of a container in a phase.
func (rec *record) observe(phase task.Phase, pid uint32) task.Observation {
	o := task.Observation{Phase: phase, Pid: pid, Address: rec.Address, ImageDigest: rec.ImageDigest, Ports: rec.Ports, Health: rec.Health}
	if phase == task.Exited && rec.Exit != nil {
		o.ExitCode, o.OOMKilled, o.At, o.Error = rec.Exit.Code, rec.Exit.OOM, rec.Exit.At, rec.Exit.Error
	}
	return o
}

func (rec *record) any() (typeurl.Any, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode task record: %w", err)
	}
	return &anypb.Any{TypeUrl: "minid/task.v1", Value: data}, nil
}

func recordOf(c containers.Container) (*record, error) {
	ext, ok := c.Extensions[extension]
	if !ok {
		return nil, fmt.Errorf("container %s has no task record", c.ID)
	}
	rec := &record{}
	if err := json.Unmarshal(ext.GetValue(), rec); err != nil {
		return nil, fmt.Errorf("read task record of %s: %w", c.ID, err)
	}
	return rec, nil
}

func (r *Runtime) labelsOf(w *task.Wanted) map[string]string {
	labels := make(map[string]string, len(w.Spec.GetContainer().GetLabels())+4)
	for k, v := range w.Spec.GetContainer().GetLabels() {
		labels[k] = v
	}
	labels[labelService] = w.ServiceName
	labels[labelServiceID] = w.ServiceID
	labels[labelSlot] = strconv.FormatUint(w.Slot, 10)
	labels[labelNode] = r.cfg.NodeID
	return labels
}

func (r *Runtime) ownFilter() string {
	return fmt.Sprintf("labels.%q==%q", labelNode, r.cfg.NodeID)
}

func (r *Runtime) remember(id string, rec *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records[id] = rec
	if rec.Grant != nil {
		r.grants[id] = rec.Grant
	}
}

func (r *Runtime) recall(id string) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[id]
}

// imageOf names a task's image, for messages.
func (r *Runtime) imageOf(id string) string {
	if rec := r.recall(id); rec != nil {
		return rec.Image
	}
	return "of task " + id
}

func (r *Runtime) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.records, id)
	delete(r.grants, id)
}

// saveRecord stores a changed record in its container.
func (r *Runtime) saveRecord(ctx context.Context, id string, rec *record) error {
	ext, err := rec.any()
	if err != nil {
		return err
	}
	c := containers.Container{ID: id, Extensions: map[string]typeurl.Any{extension: ext}}
	if _, err := r.client.ContainerService().Update(ctx, c, "extensions."+extension); err != nil {
		return fmt.Errorf("store task record: %w", inWords(err))
	}
	r.remember(id, rec)
	return nil
}
