package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func networkFrom(t *testing.T, args string) (*pb.NetworkSpec, error) {
	t.Helper()
	set := pflag.NewFlagSet("create", pflag.ContinueOnError)
	flags := CreateNetworkFlags(set)
	if err := set.Parse(strings.Fields(args)); err != nil {
		t.Fatal(err)
	}
	return flags.Create("net")
}

func TestNetwork(t *testing.T) {
	for args, want := range map[string]string{
		"": ``,
		"-d bridge --scope swarm --label a=1 --label b":                        `driver: DRIVER_BRIDGE labels { key: "a" value: "1" } labels { key: "b" value: "" }`,
		"--attachable --internal --ingress --ipv6":                             `attachable: true internal: true ingress: true ipv6: true`,
		"-o encrypted -o mtu=1400 --opt vni=5000":                              `encrypted: true mtu: 1400 vni: 5000`,
		"-o encrypted=true --opt encrypted=false":                              ``,
		"-o com.docker.network.driver.mtu=9000":                                `mtu: 9000`,
		"-o encrypted= -o com.docker.network.driver.overlay.vxlanid_list=4097": `encrypted: true vni: 4097`,
		"--subnet 10.1.0.0/16 --gateway 10.1.0.1 --ip-range 10.1.128.0/17":     `pools { subnet: "10.1.0.0/16" gateway: "10.1.0.1" ip_range: "10.1.128.0/17" }`,
		"--ipv6 --subnet fd00:1::/64,10.1.0.0/16 --gateway 10.1.0.9,fd00:1::9": `ipv6: true pools { subnet: "fd00:1::/64" gateway: "fd00:1::9" } pools { subnet: "10.1.0.0/16" gateway: "10.1.0.9" }`,
		"--subnet 10.1.0.0/24 --ip-range 10.1.0.0/24":                          `pools { subnet: "10.1.0.0/24" ip_range: "10.1.0.0/24" }`,
	} {
		got, err := networkFrom(t, args)
		if err != nil {
			t.Errorf("create %s: %v", args, err)
			continue
		}
		wanted := &pb.NetworkSpec{}
		if err := prototext.Unmarshal([]byte(want), wanted); err != nil {
			t.Fatal(err)
		}
		wanted.Name = "net"
		if wanted.Driver == 0 {
			wanted.Driver = pb.NetworkSpec_DRIVER_OVERLAY
		}
		if diff := cmp.Diff(wanted, got, protocmp.Transform()); diff != "" {
			t.Errorf("create %s (-want +got):\n%s", args, diff)
		}
	}
}

func TestBadNetworks(t *testing.T) {
	for args, want := range map[string]string{
		"-d macvlan":                       `invalid --driver "macvlan": expected overlay or bridge`,
		"--scope local":                    `invalid --scope "local": every network is the whole cluster's`,
		"--label =x":                       `invalid --label "=x"`,
		"-o dsr":                           `invalid --opt "dsr": there are encrypted, mtu and vni`,
		"-o mtu=0":                         `expected a size in bytes`,
		"-o mtu":                           `expected a size in bytes`,
		"-o mtu=70000":                     `expected a size in bytes`,
		"-o vni=16777216":                  `expected one number up to 16777215`,
		"-o vni=4097,4098":                 `expected one number`,
		"-o encrypted=maybe":               `expected true or false`,
		"--subnet 10.1.0.0":                `expected a subnet such as`,
		"--subnet 10.1.0.7/16":             `did you mean 10.1.0.0/16?`,
		"--subnet ::ffff:10.1.0.0/112":     `expected a subnet such as`,
		"--subnet fd00::/64":               `needs --ipv6`,
		"--subnet 10.1.0.0/16,10.2.0.0/16": `10.1.0.0/16 is given already`,
		"--gateway 10.1.0.1":               `invalid --gateway "10.1.0.1": it is in no --subnet`,
		"--gateway gw":                     `expected an IP address`,
		"--subnet 10.1.0.0/16 --gateway 10.1.0.1,10.1.0.2":        `10.1.0.1 is the gateway of subnet 10.1.0.0/16 already`,
		"--ip-range 10.1.0.0/16":                                  `it is in no --subnet`,
		"--subnet 10.1.0.0/16 --ip-range 10.0.0.0/8":              `it is in no --subnet`,
		"--subnet 10.1.0.0/16 --ip-range 10.1.0.0/24,10.1.1.0/24": `10.1.0.0/24 is the range of subnet`,
	} {
		if got, err := networkFrom(t, args); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("create %s made %v, %v; want %q", args, got, err, want)
		}
	}
}

func FuzzAttachment(f *testing.F) {
	for _, s := range []string{"web", "name=web,alias=a,alias=b", "web,alias=a", `"name=a,b"`, ",", "=", "alias=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseAttachment(s)
		if err != nil {
			return
		}
		if n.NetworkName == "" {
			t.Errorf("%q made an attachment without a network: %v", s, n)
		}
		for _, alias := range n.Aliases {
			if alias == "" {
				t.Errorf("%q made an empty alias: %v", s, n)
			}
		}
	})
}
