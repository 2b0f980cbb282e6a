// Package spec turns the flags of `service create`, `service update` and
// `network create` into specs. It does no I/O of its own: files and variables
// come through Environment, references to secrets, configs and networks stay
// names until a manager looks up their ids, images stay as written.
package spec

import (
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Environment is what --env KEY and --env-file read from.
type Environment struct {
	Getenv   func(key string) string
	ReadFile func(path string) ([]byte, error)
}

// flag is one flag and what it does to a spec.
type flag struct {
	name, short string
	// kind shows in the help: string, bool, list and so on.
	kind, usage string
	// apply carries out one value.
	apply func(s *pb.ServiceSpec, value string, env Environment) error
}

// value collects what was given for a flag; reading it comes later, in the
// order of the flag tables.
type value struct {
	kind  string
	given []string
}

// String is the last value given.
func (v *value) String() string {
	if len(v.given) == 0 {
		return ""
	}
	return v.given[len(v.given)-1]
}

// Set adds a value.
func (v *value) Set(s string) error { v.given = append(v.given, s); return nil }

// Type names the kind of value for the help text.
func (v *value) Type() string { return v.kind }

// Flags is the flags of one command line.
type Flags struct {
	set   *pflag.FlagSet
	flags []flag
}

// CreateFlags adds the flags of `service create` to a flag set.
func CreateFlags(set *pflag.FlagSet) *Flags {
	return register(set, createOnlyFlags(), jobFlags(), scalarFlags(), healthFlags(), listFlags(create))
}

// UpdateFlags adds the flags of `service update` to a flag set.
func UpdateFlags(set *pflag.FlagSet) *Flags {
	return register(set, updateOnlyFlags(), jobFlags(), scalarFlags(), healthFlags(), listFlags(update))
}

func register(set *pflag.FlagSet, tables ...[]flag) *Flags {
	f := &Flags{set: set}
	for _, table := range tables {
		f.flags = append(f.flags, table...)
	}
	for _, fl := range f.flags {
		set.VarP(&value{kind: fl.kind}, fl.name, fl.short, fl.usage)
		if fl.kind == "bool" {
			set.Lookup(fl.name).NoOptDefVal = "true"
		}
	}
	return f
}

// apply carries out all flags given, in the order of their tables.
func (f *Flags) apply(s *pb.ServiceSpec, env Environment) error {
	if err := f.clash(); err != nil {
		return err
	}
	for _, fl := range f.flags {
		given := f.set.Lookup(fl.name).Value.(*value).given
		if fl.kind != "list" && len(given) > 1 {
			given = given[len(given)-1:]
		}
		for _, v := range given {
			if err := fl.apply(s, v, env); err != nil {
				return fault.New(fault.Invalid, "invalid --%s %q: %w", fl.name, v, err)
			}
		}
	}
	trim(s)
	return nil
}

// Create makes the spec of a new service: the flags over Swarm's defaults.
func (f *Flags) Create(image string, args []string, env Environment) (*pb.ServiceSpec, error) {
	s := &pb.ServiceSpec{
		Task:   &pb.TaskSpec{Container: &pb.ContainerSpec{Image: image, Args: args}},
		Mode:   &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}},
		Update: &pb.UpdateConfig{Parallelism: 1},
	}
	if err := f.apply(s, env); err != nil {
		return nil, err
	}
	return s, f.settleJob(s, true)
}

// Update returns old with the flags carried out on it; old stays as it is.
func (f *Flags) Update(old *pb.ServiceSpec, env Environment) (*pb.ServiceSpec, error) {
	s := proto.Clone(old).(*pb.ServiceSpec)
	container(s)
	if err := f.apply(s, env); err != nil {
		return nil, err
	}
	return s, f.settleJob(s, false)
}

// made returns what a field points to, made if it is missing.
func made[T any](field **T) *T {
	if *field == nil {
		*field = new(T)
	}
	return *field
}

// task, container and the like return a part of a spec, made if missing.
func task(s *pb.ServiceSpec) *pb.TaskSpec                  { return made(&s.Task) }
func container(s *pb.ServiceSpec) *pb.ContainerSpec        { return made(&task(s).Container) }
func resources(s *pb.ServiceSpec) *pb.ResourceRequirements { return made(&task(s).Resources) }
func restart(s *pb.ServiceSpec) *pb.RestartPolicy          { return made(&task(s).Restart) }
func placement(s *pb.ServiceSpec) *pb.Placement            { return made(&task(s).Placement) }
func logs(s *pb.ServiceSpec) *pb.LogConfig                 { return made(&task(s).Log) }
func dns(s *pb.ServiceSpec) *pb.DNSConfig                  { return made(&container(s).Dns) }

// trim removes parts in which nothing is set (any more): a task made without
// them is the same, and need not be replaced.
func trim(s *pb.ServiceSpec) {
	t := task(s)
	if proto.Size(t.Placement) == 0 {
		t.Placement = nil
	}
	if proto.Size(t.Resources) == 0 {
		t.Resources = nil
	}
	if proto.Size(t.GetContainer().GetDns()) == 0 {
		container(s).Dns = nil
	}
	if proto.Size(t.GetContainer().GetHealth()) == 0 {
		container(s).Health = nil
	}
}

// unsupported are flags that Swarm has and minid does not have yet.
const unsupported = " credential-spec isolation" +
	" autolock external-ca ca-cert ca-key aux-address config-from config-only ipam-driver ipam-opt ipv4" +
	" template-driver driver details rotate "

// Unsupported reports whether Swarm has a flag that minid does not have yet.
func Unsupported(name string) bool {
	name = strings.TrimLeft(name, "-")
	base := strings.TrimSuffix(strings.TrimSuffix(name, "-add"), "-rm")
	return base != "" && !strings.ContainsAny(base, " ") && strings.Contains(unsupported, " "+base+" ")
}
