package controlapi

import (
	"cmp"
	"net/netip"
	"regexp"
	"strings"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

var (
	// aliasPattern is a DNS label; the underscore, which is none of a host's
	// name, is in that of many a service.
	aliasPattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?$`)
	// searchPattern is a domain, or the root.
	searchPattern = regexp.MustCompile(`^(\.|[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*\.?)$`)
	// resolvOption is one of resolv.conf(5): rotate, ndots:2.
	resolvOption = regexp.MustCompile(`^[a-z][a-z0-9-]*(:[0-9]{1,4})?$`)
)

// maxDomain is the longest name that DNS carries, RFC 1035.
const maxDomain = 253

// resolveNetworks finds the networks that a task is to be on, by id, name or
// id prefix, and fills in both id and name.
func resolveNetworks(view store.View, attachments []*pb.NetworkAttachment) error {
	for _, a := range attachments {
		ref := cmp.Or(a.NetworkId, a.NetworkName)
		n, err := findNetwork(view, ref)
		if fault.Is(err, fault.NotFound) {
			return missingNetwork(cmp.Or(a.NetworkName, ref))
		}
		if err != nil {
			return err
		}
		a.NetworkId, a.NetworkName = n.Id, n.GetSpec().GetName()
		if n.GetSpec().GetIngress() {
			return invalid("network %s: it is the routing mesh's own and carries no tasks", a.NetworkName).
				WithTry("--publish 8080:80 to be reached on every node, or a network of your own: minictl network create NAME")
		}
	}
	return nil
}

func missingNetwork(name string) error {
	if name == "host" || name == "none" {
		return invalid("network %s: every task has a network namespace of its own, with its node's bridge in it", name).
			WithTry("--publish mode=host,published=8080,target=80 for a port of the node")
	}
	return fault.New(fault.NotFound, "network %s: there is none with this id or name", name).WithTry("minictl network create %s", name)
}

// checkAttachments looks at networks that were resolved.
func checkAttachments(attachments []*pb.NetworkAttachment) error {
	on := map[string]bool{}
	for _, a := range attachments {
		if on[a.NetworkId] {
			return invalid("network %s: it is given twice", a.NetworkName).
				WithTry("--network name=%s,alias=A,alias=B for several aliases", a.NetworkName)
		}
		on[a.NetworkId] = true
		names := map[string]bool{}
		for _, alias := range a.Aliases {
			switch key := strings.ToLower(alias); {
			case !aliasPattern.MatchString(alias):
				return invalid("network %s: alias %q must be one part of a name: letters, digits and inner hyphens, %d at most", a.NetworkName, alias, maxName)
			case names[key]:
				return invalid("network %s: alias %s is given twice", a.NetworkName, alias)
			default:
				names[key] = true
			}
		}
	}
	return nil
}

// checkEndpoint refuses to balance where nothing balances.
func checkEndpoint(spec *pb.ServiceSpec) error {
	switch spec.EndpointMode {
	case pb.EndpointMode_ENDPOINT_MODE_VIP:
		return nil
	case pb.EndpointMode_ENDPOINT_MODE_DNSRR:
	default:
		return invalid("endpoint-mode: there is no mode %d", spec.EndpointMode).WithTry("--endpoint-mode vip|dnsrr")
	}
	for _, p := range spec.Task.Ports {
		if p.Mode == pb.PortConfig_MODE_INGRESS {
			return invalid("endpoint-mode dnsrr: port %s is published in mode ingress, which balances over the tasks itself", portName(p.Target, p.Protocol)).
				WithTry("--publish %s, or --endpoint-mode vip", hostFlag(p))
		}
	}
	return nil
}

func checkDNS(d *pb.DNSConfig) error {
	for _, server := range d.GetServers() {
		addr, err := netip.ParseAddr(server)
		if err != nil || addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
			return invalid("dns %q: it is no address of a name server", server).WithTry("--dns 9.9.9.9")
		}
	}
	for _, domain := range d.GetSearch() {
		if len(domain) > maxDomain || !searchPattern.MatchString(domain) {
			return invalid("dns-search %q: it is no domain", domain).WithTry("--dns-search example.org")
		}
	}
	for _, option := range d.GetOptions() {
		if !resolvOption.MatchString(option) {
			return invalid("dns-option %q: it must be as in resolv.conf, an option or OPTION:NUMBER", option).WithTry("--dns-option ndots:2")
		}
	}
	return nil
}
