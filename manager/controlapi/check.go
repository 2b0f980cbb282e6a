package controlapi

import (
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
	"github.com/minid/minid/store"
)

const (
	// The least that can be reserved or limited; Swarm's numbers.
	minNanoCPUs = 1e6
	minMemory   = 4 << 20
	// maxReplicas guards against a slip of the finger: a cluster holds a
	// million tasks.
	maxReplicas = 1_000_000
	// maxDuration guards against durations that nobody means.
	maxDuration = 10 * 365 * 24 * time.Hour
	maxName     = 63
	minLogSize  = 4 << 10
	maxLogFiles = 1000
)

// namePattern is that of services, secrets and configs: a DNS label may be made
// of it, and it needs no quoting in a shell.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)

func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, format, args...)
}

// firstOf returns the first error.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkService tells what is wrong with a spec in normal form.
func checkService(spec *pb.ServiceSpec) error {
	task := spec.Task
	return firstOf(
		checkName(spec.Name),
		checkLabels(spec.Labels),
		checkMode(spec),
		checkContainer(task.Container),
		checkResources(task.Resources),
		checkLimits(task.Container, task.Resources),
		checkRestart(task.Restart),
		checkPlacement(task.Placement),
		checkPorts(task.Ports),
		checkAttachments(task.Networks),
		checkEndpoint(spec),
		checkLog(task.Log),
		checkRollouts(spec),
	)
}

func checkName(name string) error {
	switch {
	case name == "":
		return invalid("name: none is given").WithTry("--name NAME")
	case len(name) > maxName:
		return invalid("name %q: it has %d characters, %d are the most", name, len(name), maxName)
	case !namePattern.MatchString(name):
		return invalid("name %q: it must begin and end with a letter or digit and hold only those, '-', '_' and '.'", name)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	for key := range labels {
		if strings.TrimSpace(key) == "" || strings.ContainsAny(key, "=\x00\n") {
			return invalid("label %q: its key is empty or holds '=' or a line break", key).WithTry("--label KEY=VALUE")
		}
	}
	return nil
}

func checkMode(spec *pb.ServiceSpec) error {
	placement := spec.Task.Placement
	switch {
	case spec.GetReplicated().GetReplicas() > maxReplicas:
		return invalid("replicas: %d are too many, %d are the most", spec.GetReplicated().GetReplicas(), maxReplicas)
	case store.PerNode(spec) && placement.GetMaxReplicasPerNode() > 0:
		return invalid("replicas-max-per-node: a global service has one task per node anyway").
			WithTry("leave --replicas-max-per-node out, or --mode replicated")
	}
	return checkJob(spec)
}

func checkResources(r *pb.ResourceRequirements) error {
	return firstOf(
		checkCPU("limit-cpu", r.GetLimitNanoCpus()),
		checkCPU("reserve-cpu", r.GetReserveNanoCpus()),
		checkMemory("limit-memory", r.GetLimitMemoryBytes()),
		checkMemory("reserve-memory", r.GetReserveMemoryBytes()),
		checkOver("cpu", r.GetReserveNanoCpus(), r.GetLimitNanoCpus()),
		checkOver("memory", r.GetReserveMemoryBytes(), r.GetLimitMemoryBytes()),
		checkPids(r.GetLimitPids()),
		checkGeneric(r.GetGeneric()),
	)
}

func checkCPU(flag string, nano int64) error {
	if nano != 0 && nano < minNanoCPUs {
		return invalid("%s: %g CPUs are too few, 0.001 is the least", flag, float64(nano)/1e9).WithTry("--%s 0.1", flag)
	}
	return nil
}

func checkMemory(flag string, bytes int64) error {
	if bytes != 0 && bytes < minMemory {
		return invalid("%s: %d bytes are too few, 4 MiB is the least", flag, bytes).WithTry("--%s 64M", flag)
	}
	return nil
}

func checkOver(what string, reserve, limit int64) error {
	if limit > 0 && reserve > limit {
		return invalid("reserve-%s: more is reserved than the limit allows to use", what).WithTry("raise --limit-%s or lower --reserve-%[1]s", what)
	}
	return nil
}

func checkPids(pids int64) error {
	if pids < 0 {
		return invalid("limit-pids: %d is negative", pids).WithTry("--limit-pids 100, or 0 for no limit")
	}
	return nil
}

func checkRestart(r *pb.RestartPolicy) error {
	if pb.RestartPolicy_Condition_name[int32(r.Condition)] == "" {
		return invalid("restart-condition: there is no condition %d", r.Condition).WithTry("--restart-condition none|on-failure|any")
	}
	return firstOf(checkDuration("restart-delay", r.Delay), checkDuration("restart-window", r.Window), checkMaxDelay(r))
}

func checkDuration(flag string, d *durationpb.Duration) error {
	if d == nil {
		return nil
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < 0 || d.AsDuration() > maxDuration {
		return invalid("%s: %v is not between 0 and ten years", flag, d.AsDuration()).WithTry("--%s 5s", flag)
	}
	return nil
}

func checkPlacement(p *pb.Placement) error {
	if _, err := scheduler.ParseConstraints(p.GetConstraints()); err != nil {
		return err
	}
	for _, text := range p.GetSpread() {
		if _, err := scheduler.ParseSpread(text); err != nil {
			return err
		}
	}
	return nil
}

func checkLog(l *pb.LogConfig) error {
	switch {
	case l.GetMaxSizeBytes() != 0 && l.GetMaxSizeBytes() < minLogSize:
		return invalid("log max-size: %d bytes are too few, 4 KiB is the least", l.GetMaxSizeBytes()).WithTry("--log-opt max-size=10m")
	case l.GetMaxFiles() > maxLogFiles:
		return invalid("log max-file: %d files are too many, %d are the most", l.GetMaxFiles(), maxLogFiles).WithTry("--log-opt max-file=3")
	}
	return nil
}
