package spec

import (
	"encoding/csv"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	pb "github.com/minid/minid/proto/minid/v1"
)

func referenceLists(v verb) []listFlag {
	return []listFlag{
		{"mount", "", "mount such as type=bind,source=/srv,target=/data,readonly", addMount(v), "target", func(s *pb.ServiceSpec, target string) error {
			c := container(s)
			c.Mounts = slices.DeleteFunc(c.Mounts, func(m *pb.Mount) bool { return path.Clean(m.Target) == path.Clean(target) })
			return nil
		}},
		{"publish", "p", "port: [HOST_IP:]PUBLISHED:TARGET[/PROTOCOL] or published=8080,target=80,protocol=,mode=ingress|host,host_ip=,policy=local|cluster,source=preserve|masquerade",
			addPorts, "target port", removePorts},
		fileList("secret", "secret: NAME or source=NAME,target=FILE,uid=,gid=,mode=", func(s *pb.ServiceSpec) *[]*pb.FileReference { return &container(s).Secrets }),
		fileList("config", "config: NAME or source=NAME,target=PATH,uid=,gid=,mode=", func(s *pb.ServiceSpec) *[]*pb.FileReference { return &container(s).Configs }),
	}
}

// pair is KEY=VALUE or, without a value, KEY.
type pair struct {
	key, val string
	hasValue bool
}

// fields reads "key=value,key" as Swarm does: a line of CSV, so that values
// with commas can be quoted.
func fields(s string) ([]pair, error) {
	record, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return nil, fmt.Errorf("expected KEY=VALUE,…")
	}
	var pairs []pair
	for _, f := range record {
		key, val, hasValue := strings.Cut(f, "=")
		pairs = append(pairs, pair{strings.ToLower(strings.TrimSpace(key)), val, hasValue})
	}
	return pairs, nil
}

// addMount makes the setter of a mount. An update replaces what is mounted at
// the same place; a new service names each place once.
func addMount(v verb) func(*pb.ServiceSpec, string, Environment) error {
	return func(s *pb.ServiceSpec, text string, _ Environment) error {
		m, err := ParseMount(text)
		if err != nil {
			return err
		}
		c := container(s)
		i := slices.IndexFunc(c.Mounts, func(have *pb.Mount) bool { return path.Clean(have.Target) == path.Clean(m.Target) })
		switch {
		case i < 0:
			c.Mounts = append(c.Mounts, m)
		case v == create:
			return fmt.Errorf("another mount has the target %s already", m.Target)
		default:
			c.Mounts[i] = m
		}
		return nil
	}
}

// ParseMount reads the value of --mount.
func ParseMount(s string) (*pb.Mount, error) {
	pairs, err := fields(s)
	if err != nil {
		return nil, err
	}
	m := &pb.Mount{Type: pb.Mount_TYPE_VOLUME}
	for _, p := range pairs {
		if err := setMountField(m, p); err != nil {
			return nil, err
		}
	}
	return m, checkMount(m)
}

func setMountField(m *pb.Mount, p pair) (err error) {
	val := p.val
	switch p.key {
	case "type":
		m.Type, err = oneOf(p, mountTypes)
	case "source", "src":
		m.Source = val
	case "target", "dst", "destination":
		m.Target = val
	case "readonly", "ro":
		m.ReadOnly, err = mountBool(p)
	case "volume-nocopy":
		m.VolumeNoCopy, err = mountBool(p)
	case "bind-propagation":
		if !slices.Contains([]string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}, val) {
			return fmt.Errorf("unknown bind-propagation %q", val)
		}
		m.BindPropagation = val
	case "tmpfs-size":
		if m.TmpfsSizeBytes, err = units.RAMInBytes(val); err != nil || m.TmpfsSizeBytes < 0 {
			return fmt.Errorf("invalid tmpfs-size %q: expected a size such as 64m", val)
		}
	case "tmpfs-mode":
		m.TmpfsMode, err = fileMode(val)
	default:
		return setMountOption(m, p)
	}
	return err
}

var mountTypes = choices[pb.Mount_Type]{{"bind", pb.Mount_TYPE_BIND}, {"volume", pb.Mount_TYPE_VOLUME}, {"tmpfs", pb.Mount_TYPE_TMPFS}}

func mountBool(p pair) (bool, error) {
	if !p.hasValue {
		return true, nil
	}
	return parseBool(p.val)
}

func fileMode(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("invalid mode %q: expected octal digits such as 0400", s)
	}
	return uint32(n), nil
}

// checkMount refuses options that do not belong to the mount's type.
func checkMount(m *pb.Mount) error {
	bind, volume, tmpfs := m.Type == pb.Mount_TYPE_BIND, m.Type == pb.Mount_TYPE_VOLUME, m.Type == pb.Mount_TYPE_TMPFS
	switch {
	case m.Target == "":
		return fmt.Errorf("target is missing")
	case !path.IsAbs(m.Target):
		return fmt.Errorf("target %q is not an absolute path", m.Target)
	case bind && !path.IsAbs(m.Source):
		return fmt.Errorf("a bind mount needs an absolute source path")
	case tmpfs && m.Source != "":
		return fmt.Errorf("a tmpfs mount has no source")
	case volume && strings.Contains(m.Source, "/"):
		return fmt.Errorf("%q is no volume name; for a path say type=bind", m.Source)
	case !bind && m.BindPropagation != "":
		return fmt.Errorf("bind-propagation is for type=bind")
	case !bind && (m.BindRecursion != 0 || m.BindCreateSource):
		return fmt.Errorf("bind-recursive and bind-create-src are for type=bind")
	case !volume && (m.VolumeNoCopy || m.VolumeSubpath != ""):
		return fmt.Errorf("volume-nocopy and volume-subpath are for type=volume")
	case !tmpfs && (m.TmpfsSizeBytes != 0 || m.TmpfsMode != 0):
		return fmt.Errorf("tmpfs-size and tmpfs-mode are for type=tmpfs")
	}
	return nil
}

func fileList(name, usage string, field func(*pb.ServiceSpec) *[]*pb.FileReference) listFlag {
	return listFlag{name: name, usage: usage, key: "name",
		add: func(s *pb.ServiceSpec, v string, _ Environment) error {
			ref, err := ParseFileReference(v, name == "config")
			if err != nil {
				return err
			}
			list := field(s)
			for _, have := range *list {
				if have.Target == ref.Target {
					return fmt.Errorf("target %q is taken by %s %q", ref.Target, name, have.Name)
				}
			}
			*list = append(*list, ref)
			return nil
		},
		remove: func(s *pb.ServiceSpec, v string) error {
			list := field(s)
			*list = slices.DeleteFunc(*list, func(have *pb.FileReference) bool { return have.Name == v || have.Id == v })
			return nil
		},
	}
}

// ParseFileReference reads the value of --secret or --config. A config's file
// is /NAME unless a target says otherwise.
func ParseFileReference(s string, config bool) (*pb.FileReference, error) {
	ref := &pb.FileReference{Uid: "0", Gid: "0", Mode: 0o444}
	pairs, err := fields(s)
	if err != nil {
		return nil, err
	}
	if len(pairs) == 1 && !pairs[0].hasValue {
		pairs = []pair{{key: "source", val: strings.TrimSpace(s)}}
	}
	for _, p := range pairs {
		switch p.key {
		case "source", "src":
			ref.Name = p.val
		case "target":
			ref.Target = p.val
		case "uid":
			ref.Uid = p.val
		case "gid":
			ref.Gid = p.val
		case "mode":
			ref.Mode, err = fileMode(p.val)
		default:
			err = fmt.Errorf("unknown field %q", p.key)
		}
		if err != nil {
			return nil, err
		}
	}
	if ref.Name == "" {
		return nil, fmt.Errorf("source is missing")
	}
	if ref.Target == "" {
		ref.Target = ref.Name
		if config {
			ref.Target = "/" + ref.Name
		}
	}
	return ref, nil
}
