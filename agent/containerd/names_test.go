package containerd

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestResolvConf(t *testing.T) {
	const server = "nameserver 127.0.0.11\n"
	tests := map[string]struct {
		host string
		own  *pb.DNSConfig
		want string
	}{
		"empty host": {"", nil, server + "options ndots:0\n"},
		"host's search and options": {
			"# made by hand\nnameserver 127.0.0.53\nsearch corp.example lab.example\noptions edns0 trust-ad\n", nil,
			server + "search corp.example lab.example\noptions edns0 trust-ad ndots:0\n",
		},
		"the last search or domain line counts": {
			"search a.example\ndomain b.example\n", nil, server + "search b.example\noptions ndots:0\n",
		},
		"own search": {
			"search corp.example\n", &pb.DNSConfig{Search: []string{"x.example", "y.example"}},
			server + "search x.example y.example\noptions ndots:0\n",
		},
		"no search": {
			"search corp.example\n", &pb.DNSConfig{Search: []string{"."}}, server + "options ndots:0\n",
		},
		"host's root":  {"search .\n", nil, server + "options ndots:0\n"},
		"host's ndots": {"options ndots:2 rotate\n", nil, server + "options ndots:2 rotate\n"},
		"own options replace the host's of the same name": {
			"options timeout:5 rotate\noptions attempts:3\n", &pb.DNSConfig{Options: []string{"timeout:1", "ndots:3"}},
			server + "options rotate attempts:3 timeout:1 ndots:3\n",
		},
		"own servers are asked by minid": {
			"nameserver 10.0.0.53\n", &pb.DNSConfig{Servers: []string{"192.0.2.1"}}, server + "options ndots:0\n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, resolvConf(test.host, test.own)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHostsFile(t *testing.T) {
	const loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	local := netip.MustParseAddr("172.30.0.2")
	tests := map[string]struct {
		networks []*pb.TaskAddress
		more     []string
		want     string
	}{
		"no networks":     {nil, nil, loopback + "172.30.0.2\tweb1\n"},
		"names of others": {nil, []string{"10.9.9.9 db db.test", "fd00::9 cache"}, loopback + "172.30.0.2\tweb1\n10.9.9.9\tdb db.test\nfd00::9\tcache\n"},
		"two networks, one with two families": {
			[]*pb.TaskAddress{{Addresses: []string{"10.0.16.7/20", "fd00::7/64"}}, {Addresses: []string{"10.0.32.4/20"}}}, nil,
			loopback + "10.0.16.7\tweb1\nfd00::7\tweb1\n10.0.32.4\tweb1\n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, hostsFile("web1", ownAddresses(test.networks, local), test.more)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNameFilesOfTask(t *testing.T) {
	r := open(t)
	w := wanted("cat", "/etc/resolv.conf")
	w.Spec.Container.Dns = &pb.DNSConfig{Search: []string{"x.example"}, Options: []string{"ndots:1"}}
	got := r.output(t, w)
	for _, want := range []string{"nameserver 127.0.0.11\n", "search x.example\n", "ndots:1\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
	w = wanted("cat", "/etc/hosts")
	w.Spec.Container.Hostname = "box"
	w.Addresses = []*pb.TaskAddress{{Addresses: []string{"10.0.16.7/20"}}}
	if got := r.output(t, w); !strings.HasSuffix(strings.TrimSpace(got), "\n10.0.16.7\tbox") {
		t.Error(got)
	}
}
