package spec

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

type setter func(s *pb.ServiceSpec, v string) error

func scalar(name, short, kind, usage string, set setter) flag {
	return flag{name: name, short: short, kind: kind, usage: usage,
		apply: func(s *pb.ServiceSpec, v string, _ Environment) error { return set(s, v) }}
}

func createOnlyFlags() []flag {
	return []flag{
		scalar("name", "", "string", "service name", text(func(s *pb.ServiceSpec) *string { return &s.Name })),
		scalar("mode", "", "string", "service mode: replicated, global, replicated-job or global-job (default replicated)", setMode),
	}
}

func updateOnlyFlags() []flag {
	return []flag{
		scalar("image", "", "string", "image to run", text(func(s *pb.ServiceSpec) *string { return &container(s).Image })),
		scalar("args", "", "command", "command arguments, as one shell word list", words(func(s *pb.ServiceSpec) *[]string { return &container(s).Args })),
		scalar("force", "", "bool", "replace tasks even if nothing changed", func(s *pb.ServiceSpec, v string) error {
			on, err := parseBool(v)
			if on {
				task(s).ForceUpdate++
			}
			return err
		}),
	}
}

// scalarFlags are the flags with one value that create and update share.
func scalarFlags() []flag {
	return append(append(processFlags(), settingFlags()...), append(policyFlags(), updateFlags()...)...)
}

func processFlags() []flag {
	return []flag{
		scalar("entrypoint", "", "command", "replace the image's entrypoint", words(func(s *pb.ServiceSpec) *[]string { return &container(s).Entrypoint })),
		scalar("user", "u", "string", "user name or uid, with an optional :group", text(func(s *pb.ServiceSpec) *string { return &container(s).User })),
		scalar("workdir", "w", "string", "working directory in the container", text(func(s *pb.ServiceSpec) *string { return &container(s).Workdir })),
		scalar("hostname", "", "string", "host name of the container", text(func(s *pb.ServiceSpec) *string { return &container(s).Hostname })),
		scalar("tty", "t", "bool", "give the process a terminal", boolean(func(s *pb.ServiceSpec) *bool { return &container(s).Tty })),
		scalar("read-only", "", "bool", "mount the root file system read-only", boolean(func(s *pb.ServiceSpec) *bool { return &container(s).ReadOnly })),
		scalar("stop-signal", "", "string", "signal that asks the process to stop", text(func(s *pb.ServiceSpec) *string { return &container(s).StopSignal })),
		scalar("stop-grace-period", "", "duration", "time between the stop signal and SIGKILL (default 10s)", period(func(s *pb.ServiceSpec) **durationpb.Duration { return &container(s).StopGracePeriod })),
		scalar("limit-cpu", "", "decimal", "limit of CPUs", decimal(func(s *pb.ServiceSpec) *int64 { return &resources(s).LimitNanoCpus })),
		scalar("limit-memory", "", "bytes", "limit of memory", bytes(func(s *pb.ServiceSpec) *int64 { return &resources(s).LimitMemoryBytes })),
		scalar("limit-pids", "", "int", "limit of processes (0 is none)", number(func(s *pb.ServiceSpec) *int64 { return &resources(s).LimitPids })),
		scalar("reserve-cpu", "", "decimal", "CPUs set aside", decimal(func(s *pb.ServiceSpec) *int64 { return &resources(s).ReserveNanoCpus })),
		scalar("reserve-memory", "", "bytes", "memory set aside", bytes(func(s *pb.ServiceSpec) *int64 { return &resources(s).ReserveMemoryBytes })),
	}
}

func policyFlags() []flag {
	return []flag{
		scalar("replicas", "", "uint", "number of tasks, or of those that a replicated-job has to complete (default 1)", replicas),
		scalar("replicas-max-per-node", "", "uint", "most tasks on one node (0 is no limit)", count(func(s *pb.ServiceSpec) *uint64 { return &placement(s).MaxReplicasPerNode })),
		scalar("restart-condition", "", "string", "when tasks are restarted: none, on-failure or any (default any; on-failure for jobs, which cannot have any)", choice(choices[pb.RestartPolicy_Condition]{
			{"none", pb.RestartPolicy_CONDITION_NONE}, {"on-failure", pb.RestartPolicy_CONDITION_ON_FAILURE}, {"any", pb.RestartPolicy_CONDITION_ANY},
		}, func(s *pb.ServiceSpec) *pb.RestartPolicy_Condition { return &restart(s).Condition })),
		scalar("restart-delay", "", "duration", "time between a task's end and its replacement's start (default 5s)", period(func(s *pb.ServiceSpec) **durationpb.Duration { return &restart(s).Delay })),
		scalar("restart-max-delay", "", "duration", "let the delay double with each restart, up to this (default: it stays the same)", period(func(s *pb.ServiceSpec) **durationpb.Duration { return &restart(s).MaxDelay })),
		scalar(restartAttempts, "", "uint", "most restarts within the window, 0 is no limit (default 0; 3 for jobs, whose run has failed after them)", count(func(s *pb.ServiceSpec) *uint64 { return &restart(s).MaxAttempts })),
		scalar("restart-window", "", "duration", "only restarts within it count (0 is for ever)", period(func(s *pb.ServiceSpec) **durationpb.Duration { return &restart(s).Window })),
		scalar("endpoint-mode", "", "string", "how the service's name is reached: vip or dnsrr (default vip)", choice(choices[pb.EndpointMode]{
			{"vip", pb.EndpointMode_ENDPOINT_MODE_VIP}, {"dnsrr", pb.EndpointMode_ENDPOINT_MODE_DNSRR},
		}, func(s *pb.ServiceSpec) *pb.EndpointMode { return &s.EndpointMode })),
		scalar("log-driver", "", "string", "minid, json-file or local, which are one: rotated files on the node", logDriver),
	}
}

func text(field func(*pb.ServiceSpec) *string) setter {
	return func(s *pb.ServiceSpec, v string) error { *field(s) = v; return nil }
}

func words(field func(*pb.ServiceSpec) *[]string) setter {
	return func(s *pb.ServiceSpec, v string) (err error) { *field(s), err = SplitWords(v); return err }
}

func boolean(field func(*pb.ServiceSpec) *bool) setter {
	return func(s *pb.ServiceSpec, v string) (err error) { *field(s), err = parseBool(v); return err }
}

func parseBool(v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("expected true or false")
	}
	return b, nil
}

func period(field func(*pb.ServiceSpec) **durationpb.Duration) setter {
	return func(s *pb.ServiceSpec, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return fmt.Errorf("expected a duration such as 90s")
		}
		*field(s) = durationpb.New(d)
		return nil
	}
}

func count(field func(*pb.ServiceSpec) *uint64) setter {
	return func(s *pb.ServiceSpec, v string) error {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return fmt.Errorf("expected a count")
		}
		*field(s) = n
		return nil
	}
}

func number(field func(*pb.ServiceSpec) *int64) setter {
	return func(s *pb.ServiceSpec, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("expected a count")
		}
		*field(s) = n
		return nil
	}
}

func bytes(field func(*pb.ServiceSpec) *int64) setter {
	return func(s *pb.ServiceSpec, v string) error {
		n, err := units.RAMInBytes(v)
		if err != nil || n < 0 {
			return fmt.Errorf("expected a size such as 512m")
		}
		*field(s) = n
		return nil
	}
}

// decimal reads CPUs in billionths.
func decimal(field func(*pb.ServiceSpec) *int64) setter {
	return func(s *pb.ServiceSpec, v string) error {
		n, err := parseNano(v)
		if err != nil {
			return err
		}
		*field(s) = n
		return nil
	}
}

func parseNano(v string) (int64, error) {
	r := new(big.Rat)
	if len(v) > 32 || strings.ContainsAny(v, "eEpP/_xX") {
		return 0, fmt.Errorf("expected a number of CPUs such as 0.5")
	}
	if _, ok := r.SetString(v); !ok || r.Sign() < 0 {
		return 0, fmt.Errorf("expected a number of CPUs such as 0.5")
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() || !r.Num().IsInt64() {
		return 0, fmt.Errorf("more precise or larger than minid can hold")
	}
	return r.Num().Int64(), nil
}

// choices are the values that something may have, by the names they have for users.
type choices[T any] []struct {
	name  string
	value T
}

func (c choices[T]) pick(name string) (T, error) {
	var names []string
	for _, has := range c {
		if strings.EqualFold(has.name, name) {
			return has.value, nil
		}
		names = append(names, has.name)
	}
	var none T
	last := len(names) - 1
	return none, fmt.Errorf("expected %s or %s", strings.Join(names[:last], ", "), names[last])
}

func choice[T any](from choices[T], field func(*pb.ServiceSpec) *T) setter {
	return func(s *pb.ServiceSpec, v string) error {
		chosen, err := from.pick(v)
		if err == nil {
			*field(s) = chosen
		}
		return err
	}
}
