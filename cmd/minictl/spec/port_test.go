package spec

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestPublish(t *testing.T) {
	for in, want := range map[string]string{
		"80":                       `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 }`,
		":80/TCP":                  `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 }`,
		"8080:80/udp":              `ports { protocol: PROTOCOL_UDP mode: MODE_INGRESS target: 80 published: 8080 }`,
		"127.0.0.1:8080:80":        `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 published: 8080 host_ip: "127.0.0.1" }`,
		"127.0.0.1::80/sctp":       `ports { protocol: PROTOCOL_SCTP mode: MODE_INGRESS target: 80 host_ip: "127.0.0.1" }`,
		"[fd00::1]:8080:80":        `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 published: 8080 host_ip: "fd00::1" }`,
		"0.0.0.0:8080:80":          `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 published: 8080 }`,
		"8000-8001:80-81/udp":      `ports { protocol: PROTOCOL_UDP mode: MODE_INGRESS target: 80 published: 8000 } ports { protocol: PROTOCOL_UDP mode: MODE_INGRESS target: 81 published: 8001 }`,
		"80-81":                    `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 } ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 81 }`,
		"10.0.0.1:9000-9001:80-81": `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 published: 9000 host_ip: "10.0.0.1" } ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 81 published: 9001 host_ip: "10.0.0.1" }`,
		"target=80":                `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 }`,
		"published=0,target=80":    `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 }`,
		"target=80,mode=host":      `ports { protocol: PROTOCOL_TCP mode: MODE_HOST target: 80 }`,
		"target=80,mode=ingress":   `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 }`,
		"Target=80,host_ip=[fd00::1],mode=host,protocol=sctp":                `ports { protocol: PROTOCOL_SCTP mode: MODE_HOST target: 80 host_ip: "fd00::1" }`,
		"published=8080,target=80,policy=local,source=masquerade":            `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 published: 8080 policy: POLICY_LOCAL source: SOURCE_MASQUERADE }`,
		"published=8080,target=80,policy=cluster,source=preserve,host_ip=::": `ports { protocol: PROTOCOL_TCP mode: MODE_INGRESS target: 80 published: 8080 policy: POLICY_CLUSTER source: SOURCE_PRESERVE }`,
	} {
		ports, err := ParsePublish(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if diff := cmp.Diff(parse(t, "task {"+want+"}").Task.Ports, ports, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
}

// Errors say what is there and what could be.
func TestPublishErrors(t *testing.T) {
	for in, want := range map[string]string{
		"80/icmp":                          `unknown protocol "icmp": expected tcp, udp or sctp`,
		"target=80,mode=swarm":             `unknown mode "swarm": expected ingress or host`,
		"target=80,policy=node":            `unknown policy "node": expected cluster or local`,
		"target=80,mode=host,policy=local": `policy is for mode=ingress`,
		"published=80":                     `target is missing`,
		"eth0:80:80":                       `"eth0" is no address of a host`,
		"8000-8001:80":                     `the ranges differ in length`,
		"90000:80":                         `"90000" is no port number`,
	} {
		if ports, err := ParsePublish(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", in, ports, err, want)
		}
	}
}

// Whatever is accepted is complete, and means the same in the long form.
func FuzzPublish(f *testing.F) {
	for _, s := range []string{"80", "8080:80/tcp", "1-3:4-6", "target=80,mode=host", "65535-65535", "1-65535", "127.0.0.1:80:80", "[::1]::80",
		"target=80,policy=local,source=masquerade,host_ip=::ffff:1.2.3.4", `"target=80",protocol=udp`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := ParsePublish(s)
		if err != nil {
			return
		}
		for _, p := range []*pb.PortConfig{ports[0], ports[len(ports)-1]} {
			if p.Target < 1 || p.Target > 65535 || p.Published > 65535 || p.Mode == 0 || p.Protocol == 0 {
				t.Errorf("%q made %v", s, p)
			}
			again, err := ParsePublish(longForm(p))
			if diff := cmp.Diff([]*pb.PortConfig{p}, again, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("%q is not %q: %v\n%s", s, longForm(p), err, diff)
			}
			if _, err := netip.ParseAddr(p.HostIp); p.HostIp != "" && err != nil {
				t.Errorf("%q made address %q", s, p.HostIp)
			}
		}
	})
}

func longForm(p *pb.PortConfig) string {
	text := fmt.Sprintf("published=%d,target=%d", p.Published, p.Target)
	for _, f := range [][3]string{{"protocol", p.Protocol.String(), "PROTOCOL_"}, {"mode", p.Mode.String(), "MODE_"}, {"policy", p.Policy.String(), "POLICY_"}, {"source", p.Source.String(), "SOURCE_"}} {
		if v := strings.TrimPrefix(f[1], f[2]); v != "UNSPECIFIED" {
			text += "," + f[0] + "=" + strings.ToLower(v)
		}
	}
	if p.HostIp != "" {
		text += ",host_ip=" + p.HostIp
	}
	return text
}
