package controlapi

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// Each row spoils a valid spec; the error must say so in these words.
func TestCreateServiceRefuses(t *testing.T) {
	container := func(change func(*pb.ContainerSpec)) func(*pb.ServiceSpec) {
		return func(s *pb.ServiceSpec) { change(s.Task.Container) }
	}
	mount := func(m *pb.Mount) func(*pb.ServiceSpec) {
		return container(func(c *pb.ContainerSpec) { c.Mounts = []*pb.Mount{m} })
	}
	port := func(ports ...*pb.PortConfig) func(*pb.ServiceSpec) {
		return func(s *pb.ServiceSpec) { s.Task.Ports = ports }
	}
	on := func(networks ...*pb.NetworkAttachment) func(*pb.ServiceSpec) {
		return func(s *pb.ServiceSpec) { s.Task.Networks = networks }
	}
	dns := func(d *pb.DNSConfig) func(*pb.ServiceSpec) {
		return container(func(c *pb.ContainerSpec) { c.Dns = d })
	}
	resources := func(r *pb.ResourceRequirements) func(*pb.ServiceSpec) {
		return func(s *pb.ServiceSpec) { s.Task.Resources = r }
	}
	host, bind, volume, tmpfs := pb.PortConfig_MODE_HOST, pb.Mount_TYPE_BIND, pb.Mount_TYPE_VOLUME, pb.Mount_TYPE_TMPFS
	for want, spoil := range map[string]func(*pb.ServiceSpec){
		"name: none":                     func(s *pb.ServiceSpec) { s.Name = "" },
		`name "-web": it must begin`:     func(s *pb.ServiceSpec) { s.Name = "-web" },
		`name "a b": it must begin`:      func(s *pb.ServiceSpec) { s.Name = "a b" },
		"it has 64 characters":           func(s *pb.ServiceSpec) { s.Name = strings.Repeat("a", 64) },
		`label "": its key`:              func(s *pb.ServiceSpec) { s.Labels = map[string]string{"": "x"} },
		"image: none is given":           container(func(c *pb.ContainerSpec) { c.Image = "" }),
		`image "nginx/UPPER": `:          container(func(c *pb.ContainerSpec) { c.Image = "nginx/UPPER" }),
		"image: none":                    func(s *pb.ServiceSpec) { s.Task = nil },
		"replicas: 2000000 are too many": func(s *pb.ServiceSpec) { s.GetReplicated().Replicas = 2e6 },
		"a global service has one task": func(s *pb.ServiceSpec) {
			s.Mode = &pb.ServiceSpec_Global{}
			s.Task.Placement = &pb.Placement{MaxReplicasPerNode: 1}
		},
		"limit-cpu: 0.0005 CPUs are too few":   resources(&pb.ResourceRequirements{LimitNanoCpus: 5e5}),
		"reserve-cpu: -1 CPUs":                 resources(&pb.ResourceRequirements{ReserveNanoCpus: -1e9}),
		"limit-memory: 1024 bytes are too few": resources(&pb.ResourceRequirements{LimitMemoryBytes: 1024}),
		"reserve-memory: more is reserved":     resources(&pb.ResourceRequirements{LimitMemoryBytes: 8 << 20, ReserveMemoryBytes: 16 << 20}),
		"limit-pids: -1 is negative":           resources(&pb.ResourceRequirements{LimitPids: -1}),
		`generic-resource "a b": a kind`:       resources(&pb.ResourceRequirements{Generic: []*pb.GenericRequest{{Kind: "a b", Count: 1}}}),
		"generic-resource gpu: 0 are too few":  resources(&pb.ResourceRequirements{Generic: []*pb.GenericRequest{{Kind: "gpu"}}}),
		"generic-resource gpu: it is given tw": resources(&pb.ResourceRequirements{Generic: []*pb.GenericRequest{{Kind: "gpu", Count: 1}, {Kind: "gpu", Count: 1}}}),
		"restart-condition: there is no":       func(s *pb.ServiceSpec) { s.Task.Restart = &pb.RestartPolicy{Condition: 9} },
		"restart-delay: -1s":                   func(s *pb.ServiceSpec) { s.Task.Restart = &pb.RestartPolicy{Delay: durationpb.New(-time.Second)} },
		"update-order: there is no":            func(s *pb.ServiceSpec) { s.Update = &pb.UpdateConfig{Order: 7} },
		"update-failure-action: there is no":   func(s *pb.ServiceSpec) { s.Update = &pb.UpdateConfig{FailureAction: 7} },
		"update-max-failure-ratio: 1.5":        func(s *pb.ServiceSpec) { s.Update = &pb.UpdateConfig{MaxFailureRatio: 1.5} },
		"update-max-failure-ratio: NaN":        func(s *pb.ServiceSpec) { s.Update = &pb.UpdateConfig{MaxFailureRatio: math.NaN()} },
		"update-deadline: -1s":                 func(s *pb.ServiceSpec) { s.Update = &pb.UpdateConfig{Deadline: durationpb.New(-time.Second)} },
		"rollback-order: there is no":          func(s *pb.ServiceSpec) { s.Rollback = &pb.UpdateConfig{Order: 7} },
		"rollback-max-failure-ratio: -1":       func(s *pb.ServiceSpec) { s.Rollback = &pb.UpdateConfig{MaxFailureRatio: -1} },
		"a rollback is not rolled back": func(s *pb.ServiceSpec) {
			s.Rollback = &pb.UpdateConfig{FailureAction: pb.UpdateConfig_FAILURE_ACTION_ROLLBACK}
		},
		"update-monitor: -1s":                   func(s *pb.ServiceSpec) { s.Update = &pb.UpdateConfig{Monitor: durationpb.New(-time.Second)} },
		`constraint "node.colour==red"`:         func(s *pb.ServiceSpec) { s.Task.Placement = &pb.Placement{Constraints: []string{"node.colour==red"}} },
		`placement preference "node.id"`:        func(s *pb.ServiceSpec) { s.Task.Placement = &pb.Placement{Spread: []string{"node.id"}} },
		"log max-size: 5 bytes":                 func(s *pb.ServiceSpec) { s.Task.Log = &pb.LogConfig{MaxSizeBytes: 5} },
		"log max-file: 5000":                    func(s *pb.ServiceSpec) { s.Task.Log = &pb.LogConfig{MaxFiles: 5000} },
		"port 0 is not between":                 port(&pb.PortConfig{Mode: host}),
		"port 70000 is not between":             port(&pb.PortConfig{Mode: host, Target: 80, Published: 70000}),
		"the nodes need it, for the managers":   port(&pb.PortConfig{Target: 80, Published: 2377}),
		"for the networks' VXLAN":               port(&pb.PortConfig{Mode: host, Target: 80, Published: 4789, Protocol: 2}),
		"the nodes need it, for WireGuard":      port(&pb.PortConfig{Target: 80, Published: 4790, Protocol: 2}),
		`publish 80: "web" is no address of a`:  port(&pb.PortConfig{Target: 80, HostIp: "web"}),
		`publish 80: "224.0.0.1" is no address`: port(&pb.PortConfig{Target: 80, HostIp: "224.0.0.1"}),
		"publish 80: there is no policy 7":      port(&pb.PortConfig{Target: 80, Policy: 7}),
		"publish 80: there is no source 7":      port(&pb.PortConfig{Target: 80, Source: 7}),
		"policy and source are for mode ingres": port(&pb.PortConfig{Mode: host, Target: 80, Source: pb.PortConfig_SOURCE_PRESERVE}),
		"publish 8080/tcp: it is published twi": port(&pb.PortConfig{Mode: host, Target: 1, Published: 8080}, &pb.PortConfig{Target: 2, Published: 8080}),
		"port 80/tcp of the task is published ": port(&pb.PortConfig{Target: 80}, &pb.PortConfig{Target: 80}),
		"publish 8080/udp: it is published twi": port(&pb.PortConfig{Mode: host, Target: 1, Published: 8080, Protocol: 2}, &pb.PortConfig{Mode: host, Target: 2, Published: 8080, Protocol: 2}),
		"publish 80: there is no protocol 8":    port(&pb.PortConfig{Mode: host, Target: 80, Protocol: 8}),
		"publish 80: there is no mode 8":        port(&pb.PortConfig{Mode: 8, Target: 80}),
		"endpoint-mode: there is no mode 7":     func(s *pb.ServiceSpec) { s.EndpointMode = 7 },
		"endpoint-mode dnsrr: port 80/tcp is p": func(s *pb.ServiceSpec) {
			s.EndpointMode, s.Task.Ports = pb.EndpointMode_ENDPOINT_MODE_DNSRR, []*pb.PortConfig{{Target: 80}}
		},
		"network front: it is given twice":                                      on(&pb.NetworkAttachment{NetworkName: "front"}, &pb.NetworkAttachment{NetworkName: "front"}),
		`network front: alias "a.b" must be`:                                    on(&pb.NetworkAttachment{NetworkName: "front", Aliases: []string{"a.b"}}),
		`network front: alias "" must be one`:                                   on(&pb.NetworkAttachment{NetworkName: "front", Aliases: []string{""}}),
		"network front: alias DB is given tw":                                   on(&pb.NetworkAttachment{NetworkName: "front", Aliases: []string{"db", "DB"}}),
		"network ingress: it is the routing":                                    on(&pb.NetworkAttachment{NetworkName: "ingress"}),
		"network host: every task has a netw":                                   on(&pb.NetworkAttachment{NetworkName: "host"}),
		"find network: no id or name":                                           on(&pb.NetworkAttachment{}),
		`dns "dns.google": it is no address`:                                    dns(&pb.DNSConfig{Servers: []string{"dns.google"}}),
		`dns "0.0.0.0": it is no address`:                                       dns(&pb.DNSConfig{Servers: []string{"0.0.0.0"}}),
		`dns-search "a b": it is no domain`:                                     dns(&pb.DNSConfig{Search: []string{"example.org", "a b"}}),
		`dns-search "a..b"`:                                                     dns(&pb.DNSConfig{Search: []string{"a..b"}}),
		`dns-option "ndots=2": it must be`:                                      dns(&pb.DNSConfig{Options: []string{"rotate", "ndots=2"}}),
		`dns-option "x\nnameserver 1.1.1.1"`:                                    dns(&pb.DNSConfig{Options: []string{"x\nnameserver 1.1.1.1"}}),
		`env "PATH": it must be KEY=VALUE`:                                      container(func(c *pb.ContainerSpec) { c.Env = []string{"PATH"} }),
		"bad template":                                                          container(func(c *pb.ContainerSpec) { c.Env = []string{"A={{.Service.Nmae}}"} }),
		"a template cannot loop":                                                container(func(c *pb.ContainerSpec) { c.Env = []string{"A={{if true}}{{range 9}}{{end}}{{end}}"} }),
		`hostname "{{.Service.Nmae}}": bad template: can't evaluate field Nmae`: container(func(c *pb.ContainerSpec) { c.Hostname = "{{.Service.Nmae}}" }),
		`hostname "{{.Task": bad template: hostname:1: unclosed action`:         container(func(c *pb.ContainerSpec) { c.Hostname = "{{.Task" }),
		`hostname "a_b"`:                                                        container(func(c *pb.ContainerSpec) { c.Hostname = "a_b" }),
		`user "a:b:c"`:                                                          container(func(c *pb.ContainerSpec) { c.User = "a:b:c" }),
		`group ""`:                                                              container(func(c *pb.ContainerSpec) { c.Groups = []string{""} }),
		`workdir "data"`:                                                        container(func(c *pb.ContainerSpec) { c.Workdir = "data" }),
		`stop-signal "SIGFOO"`:                                                  container(func(c *pb.ContainerSpec) { c.StopSignal = "SIGFOO" }),
		"stop-grace-period: -1s":                                                container(func(c *pb.ContainerSpec) { c.StopGracePeriod = durationpb.New(-time.Second) }),
		"capability CAP_FLY":                                                    container(func(c *pb.ContainerSpec) { c.CapAdd = []string{"fly"} }),
		"capability CAP_KILL: it is added and":                                  container(func(c *pb.ContainerSpec) { c.CapAdd, c.CapDrop = []string{"kill"}, []string{"CAP_KILL"} }),
		`mount "data": the target`:                                              mount(&pb.Mount{Type: volume, Target: "data"}),
		"cannot be the container's root":                                        mount(&pb.Mount{Type: volume, Target: "/x/.."}),
		"mount /d: there is no type 0":                                          mount(&pb.Mount{Target: "/d"}),
		"a bind mount needs a source":                                           mount(&pb.Mount{Type: bind, Target: "/d"}),
		`the source "rel" must be an absolute`:                                  mount(&pb.Mount{Type: bind, Source: "rel", Target: "/d"}),
		`there is no bind-propagation "up"`:                                     mount(&pb.Mount{Type: bind, Source: "/s", Target: "/d", BindPropagation: "up"}),
		"bind-propagation is only for":                                          mount(&pb.Mount{Type: volume, Target: "/d", BindPropagation: "shared"}),
		"volume-nocopy and volume-subpath ":                                     mount(&pb.Mount{Type: tmpfs, Target: "/d", VolumeNoCopy: true}),
		"tmpfs-size and tmpfs-mode are only":                                    mount(&pb.Mount{Type: bind, Source: "/s", Target: "/d", TmpfsSizeBytes: 1}),
		`"/etc" is no name of a volume`:                                         mount(&pb.Mount{Type: volume, Source: "/etc", Target: "/d"}),
		"a tmpfs has no source":                                                 mount(&pb.Mount{Type: tmpfs, Source: "x", Target: "/d"}),
		"another mount has the same target": container(func(c *pb.ContainerSpec) {
			c.Mounts = []*pb.Mount{{Type: tmpfs, Target: "/d"}, {Type: volume, Target: "/d/"}}
		}),
		"its target /run/secrets/x is that of": container(func(c *pb.ContainerSpec) {
			c.Secrets = []*pb.FileReference{{Name: "pw", Target: "x"}, {Name: "pw", Target: "/run/secrets/x"}}
		}),
		"its target /d is that of a mount too": container(func(c *pb.ContainerSpec) {
			c.Mounts = []*pb.Mount{{Type: tmpfs, Target: "/d"}}
			c.Configs = []*pb.FileReference{{Name: "cf", Target: "/d"}}
		}),
		`the target "../x" must be`:   container(func(c *pb.ContainerSpec) { c.Secrets = []*pb.FileReference{{Name: "pw", Target: "../x"}} }),
		"uid and gid must be numbers": container(func(c *pb.ContainerSpec) { c.Secrets = []*pb.FileReference{{Name: "pw", Uid: "root"}} }),
		"mode 1777 is more than 0777": container(func(c *pb.ContainerSpec) { c.Secrets = []*pb.FileReference{{Name: "pw", Mode: 0o1777}} }),
	} {
		r := newRig(t)
		r.files()
		r.network(&pb.NetworkSpec{Name: "front"})
		spec := web()
		spoil(spec)
		_, err := r.server.CreateService(t.Context(), &pb.CreateServiceRequest{Spec: spec})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "create service") {
			t.Errorf("error %q (%v), want %q", err, fault.ClassOf(err), want)
		}
	}
}

// files creates the secret pw and the config cf.
func (r *rig) files() {
	r.t.Helper()
	if _, err := r.server.CreateSecret(r.t.Context(), &pb.CreateSecretRequest{Spec: &pb.SecretSpec{Name: "pw", Data: []byte(secretData)}}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.server.CreateConfig(r.t.Context(), &pb.CreateConfigRequest{Spec: &pb.ConfigSpec{Name: "cf", Data: []byte("public")}}); err != nil {
		r.t.Fatal(err)
	}
}

func TestPortErrorsHaveTheFlagThatWorks(t *testing.T) {
	const want = "--publish mode=host,published=5353,target=53,protocol=udp"
	port := &pb.PortConfig{Target: 53, Published: 5353, Protocol: pb.PortConfig_PROTOCOL_UDP, Mode: pb.PortConfig_MODE_INGRESS}
	spec := &pb.ServiceSpec{EndpointMode: pb.EndpointMode_ENDPOINT_MODE_DNSRR, Task: &pb.TaskSpec{Ports: []*pb.PortConfig{port}}}
	if got := fault.TryOf(checkEndpoint(spec)); got != want+", or --endpoint-mode vip" {
		t.Errorf("dnsrr: try %q", got)
	}
	err := checkReach(store.New().View(), spec.Task.Ports)
	wantClass(t, err, fault.State)
	if got := fault.TryOf(err); got != "minictl network create --ingress ingress, or "+want {
		t.Errorf("no mesh: try %q", got)
	}
}

func TestPortsAreMadeExplicit(t *testing.T) {
	tcp, udp := pb.PortConfig_PROTOCOL_TCP, pb.PortConfig_PROTOCOL_UDP
	for _, row := range []struct{ given, want *pb.PortConfig }{
		{&pb.PortConfig{Target: 80}, &pb.PortConfig{Target: 80, Protocol: tcp, Mode: pb.PortConfig_MODE_INGRESS, Policy: 1, Source: 1}},
		{&pb.PortConfig{Target: 53, Protocol: udp, Policy: 2, Source: 2}, &pb.PortConfig{Target: 53, Protocol: udp, Mode: pb.PortConfig_MODE_INGRESS, Policy: 2, Source: 2}},
		{&pb.PortConfig{Target: 80, Mode: pb.PortConfig_MODE_HOST, HostIp: "0.0.0.0"}, &pb.PortConfig{Target: 80, Protocol: tcp, Mode: pb.PortConfig_MODE_HOST}},
		{&pb.PortConfig{Target: 80, Mode: pb.PortConfig_MODE_HOST, HostIp: "::ffff:10.0.0.1"}, &pb.PortConfig{Target: 80, Protocol: tcp, Mode: pb.PortConfig_MODE_HOST, HostIp: "10.0.0.1"}},
		{&pb.PortConfig{Target: 80, Mode: pb.PortConfig_MODE_HOST, HostIp: "FD00::0:1"}, &pb.PortConfig{Target: 80, Protocol: tcp, Mode: pb.PortConfig_MODE_HOST, HostIp: "fd00::1"}},
	} {
		got := proto.CloneOf(row.given)
		normalPort(got)
		if diff := cmp.Diff(row.want, got, protocmp.Transform()); diff != "" || checkPort(got) != nil {
			t.Errorf("%v: %v\n%s", row.given, checkPort(got), diff)
		}
	}
}

func TestMissingFileTellsHowToMakeIt(t *testing.T) {
	r, spec := newRig(t), web()
	spec.Task.Container.Secrets = []*pb.FileReference{{Name: "nope"}}
	_, err := r.server.CreateService(t.Context(), &pb.CreateServiceRequest{Spec: spec})
	wantClass(t, err, fault.NotFound)
	if got := fault.TryOf(err); got != "minictl secret create nope FILE" {
		t.Errorf("try %q", got)
	}
}

func TestDefaultsAreMadeExplicitOnce(t *testing.T) {
	r := newRig(t)
	r.files()
	spec := web()
	spec.Mode = nil
	spec.Task.Ports = []*pb.PortConfig{{Mode: pb.PortConfig_MODE_HOST, Target: 80}}
	spec.Task.Container.CapAdd = []string{"net_admin"}
	spec.Task.Container.Secrets = []*pb.FileReference{{Name: "pw"}}
	spec.Task.Container.Configs = []*pb.FileReference{{Name: "cf"}}
	got := r.create(spec).Spec
	view := r.state.View()
	want := &pb.ServiceSpec{
		Name: "web",
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}},
		Task: &pb.TaskSpec{
			Container: &pb.ContainerSpec{
				Image:           "docker.io/library/nginx:latest",
				StopGracePeriod: durationpb.New(10 * time.Second),
				CapAdd:          []string{"CAP_NET_ADMIN"},
				Secrets:         []*pb.FileReference{{Id: view.SecretByName("pw").Id, Name: "pw", Target: "pw", Uid: "0", Gid: "0", Mode: 0o444}},
				Configs:         []*pb.FileReference{{Id: view.ConfigByName("cf").Id, Name: "cf", Target: "/cf", Uid: "0", Gid: "0", Mode: 0o444}},
			},
			Restart: &pb.RestartPolicy{Condition: pb.RestartPolicy_CONDITION_ANY, Delay: durationpb.New(5 * time.Second)},
			Ports:   []*pb.PortConfig{{Mode: pb.PortConfig_MODE_HOST, Target: 80, Protocol: pb.PortConfig_PROTOCOL_TCP}},
		},
		EndpointMode: pb.EndpointMode_ENDPOINT_MODE_VIP,
		Update: &pb.UpdateConfig{
			Parallelism: 1, Monitor: durationpb.New(5 * time.Second),
			FailureAction: pb.UpdateConfig_FAILURE_ACTION_PAUSE, Order: pb.UpdateConfig_ORDER_STOP_FIRST,
			Deadline: durationpb.New(10 * time.Minute),
		},
	}
	want.Rollback = want.Update
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("stored spec (-want +got):\n%s", diff)
	}
	again, err := admit(view, got)
	if diff := cmp.Diff(got, again, protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("a normal form changes again: %v\n%s", err, diff)
	}
}

func TestImagesAreSpeltOut(t *testing.T) {
	const digest = "@sha256:1111111111111111111111111111111111111111111111111111111111111111"
	for image, want := range map[string]string{
		"nginx":                  "docker.io/library/nginx:latest",
		"me/app:1":               "docker.io/me/app:1",
		"localhost:5000/app":     "localhost:5000/app:latest",
		"nginx" + digest:         "docker.io/library/nginx" + digest,
		"quay.io/a/b:2" + digest: "quay.io/a/b:2" + digest,
	} {
		if got, err := normalImage(image); err != nil || got != want {
			t.Errorf("normalImage(%s) = %s, %v; want %s", image, got, err, want)
		}
	}
}

func TestSignalsThatExist(t *testing.T) {
	for _, name := range []string{"", "SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-1"} {
		if err := checkSignal(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"0", "65", "SIG", "SIGRTMIN+99", "SIGRTMIN+"} {
		if checkSignal(name) == nil {
			t.Errorf("%q is taken for a signal", name)
		}
	}
}

func TestUpdateClusterRefuses(t *testing.T) {
	for want, spec := range map[string]*pb.ClusterSpec{
		"heartbeat period 500ms": {HeartbeatPeriod: durationpb.New(500 * time.Millisecond)},
		"cannot expire after 1m": {CertExpiry: durationpb.New(time.Minute)},
		"cannot change every 9s": {NetworkKeyPeriod: durationpb.New(9 * time.Second)},
		"cannot be orphaned aft": {OrphanTime: durationpb.New(time.Millisecond)},
		"placement strategy 7":   {PlacementStrategy: 7},
		"binpack does the oppos": {PlacementStrategy: pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK, RebalanceOnJoin: true},
		"every 5 log entries":    {SnapshotInterval: 5},
		"old snapshots are too":  {MaxSnapshots: 1000},
		"its name stays":         {Name: "other"},
		"address pools, their":   {DefaultAddressPools: []string{"172.16.0.0/12"}},
		"mask length and the":    {SubnetMaskLength: 24},
		"data path port stay":    {DataPathPort: 5000},
	} {
		_, err := newRig(t).server.UpdateCluster(t.Context(), &pb.UpdateClusterRequest{Spec: spec})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A normal form is its own normal form, whatever users type.
func FuzzNormalImage(f *testing.F) {
	for _, image := range []string{"nginx", "localhost:5000/a/b:1", "a@sha256:00", "https://x", "a:b:c", ""} {
		f.Add(image)
	}
	f.Fuzz(func(t *testing.T, image string) {
		once, err := normalImage(image)
		if err != nil {
			return
		}
		if twice, err := normalImage(once); err != nil || twice != once {
			t.Errorf("%q becomes %q, then %q, %v", image, once, twice, err)
		}
	})
}

// Whatever passes can be expanded on a node: it was, here.
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{"{{.Service.Name}}", `{{index .Service.Labels "a"}}`, "{{with .Node}}{{.ID}}{{end}}", "{{range 1}}{{end}}", "{{define `x`}}{{end}}"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := checkTemplate("env", text); err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
