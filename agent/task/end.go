package task

import (
	"cmp"
	"fmt"
	"syscall"
	"time"

	units "github.com/docker/go-units"
	pb "github.com/minid/minid/proto/minid/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ending is the last status of a process that ended by itself.
func ending(s State, obs Observation, now time.Time) *pb.TaskStatus {
	state, message := pb.TaskState_TASK_STATE_FAILED, "failed"
	problem := problemOf(obs, s.MemoryLimit)
	if h := s.Status.GetHealth(); !obs.OOMKilled && obs.Health != nil && obs.Health.Action != pb.HealthConfig_ACTION_UNREADY && h.GetState() == pb.HealthState_HEALTH_STATE_UNHEALTHY {
		problem = unhealthyWords(h.FailingStreak, h.Probes) // it was stopped for that
	}
	if problem == "" {
		state, message = pb.TaskState_TASK_STATE_COMPLETE, "finished"
	}
	st := withExit(withContainer(s.ID, status(s, state, message, now), obs), obs)
	st.Error = problem
	return st
}

// problemOf says in words how a process ended, empty when all went well.
func problemOf(obs Observation, memoryLimit int64) string {
	switch {
	case obs.OOMKilled && memoryLimit > 0:
		return fmt.Sprintf("out of memory: reached its limit of %s", units.CustomSize("%.4g %s", float64(memoryLimit), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}))
	case obs.OOMKilled:
		return "out of memory: the host had none left"
	case obs.Error != "":
		return obs.Error
	case obs.ExitCode == 0:
		return ""
	}
	// Runtimes and shells report a death by signal as 128 plus its number.
	if name := unix.SignalName(syscall.Signal(obs.ExitCode - 128)); obs.ExitCode > 128 && name != "" {
		return fmt.Sprintf("killed by %s (exit code %d)", name, obs.ExitCode)
	}
	return fmt.Sprintf("exit code %d", obs.ExitCode)
}

// withContainer adds what is observed of a container to a fresh status.
func withContainer(id string, st *pb.TaskStatus, obs Observation) *pb.TaskStatus {
	c := &pb.ContainerStatus{}
	if st.GetContainer() != nil {
		c = proto.CloneOf(st.GetContainer())
	}
	c.ContainerId = id
	c.Pid = obs.Pid
	c.Address = cmp.Or(obs.Address, c.GetAddress())
	c.ImageDigest = cmp.Or(obs.ImageDigest, c.GetImageDigest())
	st.Container = c
	if len(obs.Ports) > 0 {
		st.Ports = obs.Ports
	}
	return st
}

// withExit adds how and when the process ended.
func withExit(st *pb.TaskStatus, obs Observation) *pb.TaskStatus {
	st.Container.Pid = 0
	st.Container.ExitCode = obs.ExitCode
	st.Container.OomKilled = obs.OOMKilled
	if !obs.At.IsZero() {
		st.At = timestamppb.New(obs.At)
	}
	return st
}
