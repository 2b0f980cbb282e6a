package spec

import (
	"fmt"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
)

var recursions = choices[pb.Mount_BindRecursion]{
	{"enabled", pb.Mount_BIND_RECURSION_UNSPECIFIED}, {"disabled", pb.Mount_BIND_RECURSION_DISABLED},
	{"writable", pb.Mount_BIND_RECURSION_WRITABLE}, {"readonly", pb.Mount_BIND_RECURSION_READONLY},
}

// setMountOption reads the rarer fields of --mount.
func setMountOption(m *pb.Mount, p pair) (err error) {
	switch p.key {
	case "bind-recursive":
		m.BindRecursion, err = oneOf(p, recursions)
	case "bind-nonrecursive":
		var off bool
		if off, err = mountBool(p); off {
			m.BindRecursion = pb.Mount_BIND_RECURSION_DISABLED
		}
	case "bind-create-src":
		m.BindCreateSource, err = mountBool(p)
	case "volume-subpath":
		m.VolumeSubpath = p.val
	case "volume-driver":
		if p.val != "local" {
			return fmt.Errorf("volume-driver %q: a volume is a directory of its node, which docker calls local", p.val)
		}
	case "volume-opt", "volume-label":
		return fmt.Errorf("%s is not supported: a volume is a directory of its node, without options or labels", p.key)
	case "consistency":
		// Docker keeps the field for Macs; on Linux nothing is cached in between.
		if !slices.Contains([]string{"default", "consistent", "cached", "delegated"}, p.val) {
			return fmt.Errorf("unknown consistency %q", p.val)
		}
	default:
		return fmt.Errorf("unknown field %q", p.key)
	}
	return err
}
