// Package task is the life of one task on its node.
package task

import (
	"context"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Runtime runs containers. Container ids are task ids. Every method may be
// repeated; errors that no repetition mends are *fault.Error of class Invalid
// (a bad mount, an image for another platform, an unknown user).
type Runtime interface {
	// Prepare makes all that a task needs, up to its created container: image,
	// root filesystem, secrets and configs, network, log. It tells what it does
	// through progress. A task that is prepared or runs already is left alone.
	Prepare(ctx context.Context, w *Wanted, progress func(message string)) error
	// Start starts a prepared task's process; one that runs already is left alone.
	Start(ctx context.Context, id string) error
	// Inspect tells the state of a task's container.
	Inspect(ctx context.Context, id string) (Observation, error)
	// Wait blocks until the task's process ends, also one that an earlier minid
	// started, and returns what Inspect would then.
	Wait(ctx context.Context, id string) (Observation, error)
	// Stop sends the stop signal ("" is the image's, else SIGTERM), after grace
	// SIGKILL, and returns when the process has ended.
	Stop(ctx context.Context, id, signal string, grace time.Duration) error
	// Remove deletes container, mounts, network and secrets of a task, and its
	// log unless keepLog. Nothing there is no error.
	Remove(ctx context.Context, id string, keepLog bool) error
	// List returns the ids of all containers that exist, to find leftovers.
	List(ctx context.Context) ([]string, error)
	Checker
}

// Checker is what health checks need of a Runtime. Start itself lets new
// connections to a task without a health check.
type Checker interface {
	// Probe runs a command in a running task as its user, with its environment
	// and directory, and kills it when ctx ends. Output is what it printed.
	Probe(ctx context.Context, id string, command []string) (code int32, output string, err error)
	// Serve lets new connections to a running task.
	Serve(ctx context.Context, id string) error
	// Withhold keeps new connections from a running task until the next Serve.
	Withhold(ctx context.Context, id string) error
}

// Wanted is all that Prepare needs.
type Wanted struct {
	ID          string
	ServiceID   string
	ServiceName string
	Slot        uint64
	NodeID      string
	NodeName    string
	// Spec with templates expanded.
	Spec *pb.TaskSpec
	// Addresses on the networks of Spec, in their order.
	Addresses []*pb.TaskAddress
	// By id, as referenced from Spec.Container.
	Secrets map[string]*pb.Secret
	Configs map[string]*pb.Config
}

// Phase of a container.
type Phase int

// The phases.
const (
	Absent Phase = iota
	Created
	Running
	Exited
)

// Observation is what is true of a task's container now.
type Observation struct {
	Phase Phase
	// Pid, Address, ImageDigest and Ports are known from Created on.
	Pid         uint32
	Address     string
	ImageDigest string
	// Ports with the host ports that the runtime chose.
	Ports []*pb.PortConfig
	// Health is the check in force, as HealthOf makes it; nil without one.
	Health *pb.HealthConfig
	// The following are known once Exited.
	ExitCode  int32
	OOMKilled bool
	At        time.Time
	// Error when the process could not be started or its exit is not known.
	Error string
}

// DefaultGrace is the time between stop signal and SIGKILL when the spec names none.
const DefaultGrace = 10 * time.Second

// Grace is the time that a task has between its stop signal and SIGKILL.
func Grace(spec *pb.TaskSpec) time.Duration {
	if d := spec.GetContainer().GetStopGracePeriod(); d != nil {
		return d.AsDuration()
	}
	return DefaultGrace
}
