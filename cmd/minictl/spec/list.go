package spec

import (
	"fmt"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

type verb int

const (
	create verb = iota
	update
)

// listFlag is a flag that may be given many times: --NAME on create, --NAME-rm
// and --NAME-add, in this order, on update.
type listFlag struct {
	name, short, usage string
	add                func(s *pb.ServiceSpec, v string, env Environment) error
	// key tells --NAME-rm how users name an entry.
	key    string
	remove setter
}

// noun is what an entry is, without how it is written.
func (l listFlag) noun() string {
	noun := l.usage
	for _, end := range []string{" such as ", ": ", " KEY", " KIND"} {
		noun, _, _ = strings.Cut(noun, end)
	}
	return noun
}

func listFlags(v verb) []flag {
	var flags []flag
	if v == create {
		flags = append(flags, flag{name: "env-file", kind: "list", usage: "read environment variables from a file", apply: addEnvFile})
	}
	for _, l := range slices.Concat(plainLists(), referenceLists(v), networkLists(), settingLists()) {
		if v == create {
			flags = append(flags, flag{l.name, l.short, "list", l.usage, l.add})
			continue
		}
		remove := l.remove
		flags = append(flags,
			flag{l.name + "-rm", "", "list", fmt.Sprintf("remove %s by its %s", l.noun(), l.key),
				func(s *pb.ServiceSpec, v string, _ Environment) error { return remove(s, v) }},
			flag{l.name + "-add", "", "list", "add or replace: " + l.usage, l.add})
	}
	return append(flags,
		scalarList("cap-add", "add a Linux capability, or ALL; RESET forgets those added", func(c *pb.ContainerSpec, v string) { moveOrReset(&c.CapAdd, &c.CapDrop, v) }),
		scalarList("cap-drop", "drop a Linux capability, or ALL; RESET forgets those dropped", func(c *pb.ContainerSpec, v string) { moveOrReset(&c.CapDrop, &c.CapAdd, v) }),
		flag{name: "log-opt", kind: "list", usage: "max-size=SIZE or max-file=N", apply: setLogOption},
	)
}

func scalarList(name, usage string, add func(*pb.ContainerSpec, string)) flag {
	return flag{name: name, kind: "list", usage: usage, apply: func(s *pb.ServiceSpec, v string, _ Environment) error {
		if v == "" {
			return fmt.Errorf("it is empty")
		}
		add(container(s), v)
		return nil
	}}
}

func plainLists() []listFlag {
	return []listFlag{
		{"label", "l", "service label KEY=VALUE", setLabel(func(s *pb.ServiceSpec) *map[string]string { return &s.Labels }), "key",
			func(s *pb.ServiceSpec, k string) error { delete(s.Labels, k); return nil }},
		{"container-label", "", "container label KEY=VALUE", setLabel(func(s *pb.ServiceSpec) *map[string]string { return &container(s).Labels }), "key",
			func(s *pb.ServiceSpec, k string) error { delete(container(s).Labels, k); return nil }},
		{"env", "e", "environment variable KEY=VALUE, or KEY to pass on the caller's", addEnv, "key", removeEnv},
		textList("group", "supplementary group", "name", func(s *pb.ServiceSpec) *[]string { return &container(s).Groups }),
		textList("constraint", "placement constraint such as node.labels.disk==ssd", "text", func(s *pb.ServiceSpec) *[]string { return &placement(s).Constraints }),
		genericList(),
		{"placement-pref", "", "placement preference such as spread=node.labels.rack", addPreference, "text", removePreference},
	}
}

func setLabel(field func(*pb.ServiceSpec) *map[string]string) func(*pb.ServiceSpec, string, Environment) error {
	return func(s *pb.ServiceSpec, v string, _ Environment) error { return AddLabel(field(s), v) }
}

// AddLabel puts KEY=VALUE, or KEY with an empty value, into a map.
func AddLabel(labels *map[string]string, pair string) error {
	key, val, _ := strings.Cut(pair, "=")
	if key == "" {
		return fmt.Errorf("expected KEY=VALUE")
	}
	if *labels == nil {
		*labels = map[string]string{}
	}
	(*labels)[key] = val
	return nil
}

// textList is a list of texts, each there once. White space does not count
// when one is removed, so that a constraint need not be written exactly as it was.
func textList(name, usage, key string, field func(*pb.ServiceSpec) *[]string) listFlag {
	return listFlag{name: name, usage: usage, key: key,
		add: func(s *pb.ServiceSpec, v string, _ Environment) error {
			if v == "" {
				return fmt.Errorf("it is empty")
			}
			if list := field(s); !slices.Contains(*list, v) {
				*list = append(*list, v)
			}
			return nil
		},
		remove: func(s *pb.ServiceSpec, v string) error {
			list := field(s)
			*list = slices.DeleteFunc(*list, func(have string) bool { return squeeze(have) == squeeze(v) })
			return nil
		},
	}
}

func squeeze(s string) string { return strings.Join(strings.Fields(s), "") }

func addEnv(s *pb.ServiceSpec, v string, env Environment) error {
	key, _, hasValue := strings.Cut(v, "=")
	if key == "" {
		return fmt.Errorf("expected KEY=VALUE")
	}
	if !hasValue {
		val := env.Getenv(key)
		if val == "" {
			return nil
		}
		v = key + "=" + val
	}
	c := container(s)
	if i := slices.IndexFunc(c.Env, func(have string) bool { return envKey(have) == key }); i >= 0 {
		c.Env[i] = v
		return nil
	}
	c.Env = append(c.Env, v)
	return nil
}

func envKey(pair string) string { key, _, _ := strings.Cut(pair, "="); return key }

func removeEnv(s *pb.ServiceSpec, key string) error {
	c := container(s)
	c.Env = slices.DeleteFunc(c.Env, func(have string) bool { return envKey(have) == key })
	return nil
}

func addEnvFile(s *pb.ServiceSpec, path string, env Environment) error {
	data, err := env.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(strings.TrimLeft(line, " \t\ufeff"), "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := addEnv(s, line, env); err != nil {
			return fmt.Errorf("line %q: %w", line, err)
		}
	}
	return nil
}

func preference(v string) (string, error) {
	by, ok := strings.CutPrefix(v, "spread=")
	if !ok || by == "" {
		return "", fmt.Errorf("expected spread=node.labels.KEY or spread=engine.labels.KEY")
	}
	return by, nil
}

func addPreference(s *pb.ServiceSpec, v string, _ Environment) error {
	by, err := preference(v)
	if err == nil {
		placement(s).Spread = append(placement(s).Spread, by)
	}
	return err
}

func removePreference(s *pb.ServiceSpec, v string) error {
	by, err := preference(v)
	if err == nil {
		placement(s).Spread = slices.DeleteFunc(placement(s).Spread, func(have string) bool { return have == by })
	}
	return err
}

// moveCapability puts a capability on one list and takes it off the other.
func moveCapability(on, off *[]string, name string) {
	name = strings.ToUpper(name)
	if name != "ALL" && !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	*off = slices.DeleteFunc(*off, func(have string) bool { return have == name })
	if !slices.Contains(*on, name) {
		*on = append(*on, name)
	}
}

func setLogOption(s *pb.ServiceSpec, v string, _ Environment) error {
	key, val, _ := strings.Cut(v, "=")
	switch key {
	case "max-size":
		return bytes(func(s *pb.ServiceSpec) *int64 { return &logs(s).MaxSizeBytes })(s, val)
	case "max-file":
		var n uint64
		err := count(func(*pb.ServiceSpec) *uint64 { return &n })(s, val)
		if err != nil || n < 1 || n > 1000 {
			return fmt.Errorf("max-file must be between 1 and 1000")
		}
		logs(s).MaxFiles = uint32(n)
		return nil
	}
	return fmt.Errorf("only max-size and max-file are supported")
}
