package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// networkLists are what a service's tasks are attached to, and how they
// resolve names.
func networkLists() []listFlag {
	servers := textList("dns", "name server: an address in place of the node's", "address", func(s *pb.ServiceSpec) *[]string { return &dns(s).Servers })
	add := servers.add
	servers.add = func(s *pb.ServiceSpec, v string, env Environment) error {
		if _, err := netip.ParseAddr(v); err != nil {
			return fmt.Errorf("expected an IP address")
		}
		return add(s, v, env)
	}
	return []listFlag{
		{"network", "", "network: NAME or name=NAME,alias=ALIAS,…", addNetwork, "name", removeNetwork},
		servers,
		textList("dns-search", "search domain: where to look names up", "name", func(s *pb.ServiceSpec) *[]string { return &dns(s).Search }),
		textList("dns-option", "resolver option such as ndots:2", "text", func(s *pb.ServiceSpec) *[]string { return &dns(s).Options }),
	}
}

func addNetwork(s *pb.ServiceSpec, v string, _ Environment) error {
	n, err := ParseAttachment(v)
	if err != nil {
		return err
	}
	t := task(s)
	if slices.ContainsFunc(t.Networks, func(have *pb.NetworkAttachment) bool { return isNetwork(have, n.NetworkName) }) {
		return fmt.Errorf("the service is on network %s already", n.NetworkName)
	}
	t.Networks = append(t.Networks, n)
	return nil
}

func removeNetwork(s *pb.ServiceSpec, ref string) error {
	t := task(s)
	t.Networks = slices.DeleteFunc(t.Networks, func(have *pb.NetworkAttachment) bool { return isNetwork(have, ref) })
	return nil
}

func isNetwork(n *pb.NetworkAttachment, ref string) bool {
	return n.NetworkName == ref || n.NetworkId == ref
}

// ParseAttachment reads the value of --network: NAME, or name=NAME, with any
// number of alias=ALIAS behind it.
func ParseAttachment(s string) (*pb.NetworkAttachment, error) {
	pairs, err := fields(s)
	if err != nil {
		return nil, err
	}
	if !pairs[0].hasValue {
		name, _, _ := strings.Cut(s, ",")
		pairs[0] = pair{key: "name", val: strings.TrimSpace(name), hasValue: true}
	}
	n := &pb.NetworkAttachment{}
	for _, p := range pairs {
		switch p.key {
		case "name":
			if n.NetworkName != "" {
				return nil, fmt.Errorf("there are two names: give --network once for each network")
			}
			n.NetworkName = p.val
		case "alias":
			if p.val == "" {
				return nil, fmt.Errorf("an alias is empty")
			}
			if !slices.Contains(n.Aliases, p.val) {
				n.Aliases = append(n.Aliases, p.val)
			}
		case "driver-opt":
			return nil, fmt.Errorf("%s is not supported yet", p.key)
		default:
			return nil, fmt.Errorf("unknown field %q", p.key)
		}
	}
	if n.NetworkName == "" {
		return nil, fmt.Errorf("the network's name is missing")
	}
	return n, nil
}
