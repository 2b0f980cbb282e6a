package spec

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

var testEnv = Environment{
	Getenv: func(key string) string { return map[string]string{"HOME": "/home/me"}[key] },
	ReadFile: func(path string) ([]byte, error) {
		if path != "vars" {
			return nil, errors.New("no such file")
		}
		return []byte("# comment\n\nA=1\n  B=two words\r\nHOME\nUNSET\n"), nil
	},
}

func createFrom(t *testing.T, args ...string) (*pb.ServiceSpec, error) {
	t.Helper()
	set := pflag.NewFlagSet("create", pflag.ContinueOnError)
	flags := CreateFlags(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags.Create("sample", []string{"serve"}, testEnv)
}

func updateFrom(t *testing.T, old *pb.ServiceSpec, args ...string) (*pb.ServiceSpec, error) {
	t.Helper()
	set := pflag.NewFlagSet("update", pflag.ContinueOnError)
	flags := UpdateFlags(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags.Update(old, testEnv)
}

func parse(t *testing.T, text string) *pb.ServiceSpec {
	t.Helper()
	s := &pb.ServiceSpec{}
	if err := prototext.Unmarshal([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// created is what every new service has, with more merged into it.
func created(t *testing.T, more string) *pb.ServiceSpec {
	s := parse(t, `task { container { image: "sample" args: "serve" } } replicated { replicas: 1 } update { parallelism: 1 }`)
	extra := parse(t, more)
	if extra.Mode != nil {
		s.Mode = nil
	}
	if extra.Update != nil {
		s.Update.Parallelism = 0
	}
	proto.Merge(s, extra)
	return s
}

func TestCreate(t *testing.T) {
	for _, test := range []struct {
		args string // split at spaces
		want string
	}{
		{"", ""},
		{"--name web --label a=1 -l b --container-label c=3", `name: "web" labels { key: "a" value: "1" } labels { key: "b" value: "" } task { container { labels { key: "c" value: "3" } } }`},
		{"-e A=1 -e A=2 -e B=3 -e HOME -e UNSET", `task { container { env: "A=2" env: "B=3" env: "HOME=/home/me" } }`},
		{"--env-file vars --env A=9", `task { container { env: "A=9" env: "B=two words" env: "HOME=/home/me" } }`},
		{"--entrypoint /bin/sh -u 1:2 --group wheel --group adm -w /srv --hostname h", `task { container { entrypoint: "/bin/sh" user: "1:2" groups: "wheel" groups: "adm" workdir: "/srv" hostname: "h" } }`},
		{"-t --read-only --stop-signal SIGINT --stop-grace-period 1m30s", `task { container { tty: true read_only: true stop_signal: "SIGINT" stop_grace_period { seconds: 90 } } }`},
		{"--tty=false", ""},
		{"--cap-add net_admin --cap-drop ALL --cap-add CAP_CHOWN", `task { container { cap_add: "CAP_NET_ADMIN" cap_add: "CAP_CHOWN" cap_drop: "ALL" } }`},
		{"--restart-condition on-failure --restart-delay 0s --restart-max-delay 1m --restart-max-attempts 3 --restart-window 1m", `task { restart { condition: CONDITION_ON_FAILURE delay {} max_delay { seconds: 60 } max_attempts: 3 window { seconds: 60 } } }`},
		{"--limit-cpu .5 --limit-memory 64m --limit-pids 9 --reserve-cpu 0.000000001 --reserve-memory 1g", `task { resources { limit_nano_cpus: 500000000 limit_memory_bytes: 67108864 limit_pids: 9 reserve_nano_cpus: 1 reserve_memory_bytes: 1073741824 } }`},
		{"--constraint node.role==worker --constraint node.role==worker --placement-pref spread=node.labels.rack --replicas-max-per-node 2", `task { placement { constraints: "node.role==worker" spread: "node.labels.rack" max_replicas_per_node: 2 } }`},
		{"--replicas 0", `replicated { replicas: 0 }`},
		{"--mode global", `global {}`},
		{"--mode replicated --replicas 4", `replicated { replicas: 4 }`},
		{"--update-parallelism 0 --update-delay 5s --update-monitor 0s --update-order start-first --update-failure-action continue --update-max-failure-ratio .25",
			`update { delay { seconds: 5 } monitor {} order: ORDER_START_FIRST failure_action: FAILURE_ACTION_CONTINUE max_failure_ratio: 0.25 }`},
		{"--update-failure-action rollback --update-deadline 1m --rollback-parallelism 0 --rollback-delay 1s --rollback-monitor 2s --rollback-deadline 0s --rollback-failure-action continue --rollback-order start-first --rollback-max-failure-ratio 1",
			`update { parallelism: 1 failure_action: FAILURE_ACTION_ROLLBACK deadline { seconds: 60 } }
			rollback { delay { seconds: 1 } monitor { seconds: 2 } deadline {} failure_action: FAILURE_ACTION_CONTINUE order: ORDER_START_FIRST max_failure_ratio: 1 }`},
		{"--log-driver local --log-opt max-size=1m --log-opt max-file=7", `task { log { max_size_bytes: 1048576 max_files: 7 } }`},
		{"-p 8080:80 -p published=53,target=53,protocol=udp,mode=host", `task { ports { protocol: PROTOCOL_TCP target: 80 published: 8080 mode: MODE_INGRESS } ports { protocol: PROTOCOL_UDP target: 53 published: 53 mode: MODE_HOST } }`},
		{"--network web --network name=back,alias=db,alias=cache,alias=db --network Front,alias=www --endpoint-mode dnsrr", `endpoint_mode: ENDPOINT_MODE_DNSRR
			task { networks { network_name: "web" } networks { network_name: "back" aliases: "db" aliases: "cache" } networks { network_name: "Front" aliases: "www" } }`},
		{"--endpoint-mode vip", `endpoint_mode: ENDPOINT_MODE_VIP`},
		{"--dns 10.0.0.2 --dns fd00::1 --dns 10.0.0.2 --dns-search a.test --dns-search . --dns-option ndots:2", `task { container { dns {
			servers: "10.0.0.2" servers: "fd00::1" search: "a.test" search: "." options: "ndots:2" } } }`},
		{"--secret pw --config source=motd,target=/etc/motd,uid=1,gid=2,mode=0400", `task { container {
			secrets { name: "pw" target: "pw" uid: "0" gid: "0" mode: 292 } configs { name: "motd" target: "/etc/motd" uid: "1" gid: "2" mode: 256 } } }`},
		{"--mount type=bind,src=/a,dst=/b,ro,bind-propagation=rslave --mount source=data,target=/data,volume-nocopy=true --mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700", `task { container {
			mounts { type: TYPE_BIND source: "/a" target: "/b" read_only: true bind_propagation: "rslave" }
			mounts { type: TYPE_VOLUME source: "data" target: "/data" volume_no_copy: true }
			mounts { type: TYPE_TMPFS target: "/t" tmpfs_size_bytes: 1048576 tmpfs_mode: 448 } } }`},
	} {
		got, err := createFrom(t, strings.Fields(test.args)...)
		if err != nil {
			t.Errorf("create %s: %v", test.args, err)
			continue
		}
		if diff := cmp.Diff(created(t, test.want), got, protocmp.Transform()); diff != "" {
			t.Errorf("create %s (-want +got):\n%s", test.args, diff)
		}
	}
}

func TestUpdate(t *testing.T) {
	for _, test := range []struct {
		old, args, want string
	}{
		{"", "--label-add a=1", `labels { key: "a" value: "1" }`},
		{`labels { key: "a" value: "1" } labels { key: "b" value: "2" }`, "--label-rm a --label-add b=3", `labels { key: "b" value: "3" }`},
		{`task { container { labels { key: "a" value: "1" } } }`, "--container-label-add b=2 --container-label-rm a", `task { container { labels { key: "b" value: "2" } } }`},
		{`task { container { env: "A=1" env: "B=2" } }`, "--env-rm A --env-add B=3 --env-add C=4", `task { container { env: "B=3" env: "C=4" } }`},
		{`task { container { groups: "a" groups: "b" } }`, "--group-rm a --group-add c", `task { container { groups: "b" groups: "c" } }`},
		{`task { placement { constraints: "node.role == worker" } }`, "--constraint-rm node.role==worker --constraint-add node.id!=x", `task { placement { constraints: "node.id!=x" } }`},
		{`task { placement { spread: "node.labels.a" } }`, "--placement-pref-rm spread=node.labels.a --placement-pref-add spread=node.labels.b", `task { placement { spread: "node.labels.b" } }`},
		{`task { container { mounts { type: TYPE_VOLUME source: "a" target: "/data" } } }`, "--mount-add source=b,target=/data/", `task { container { mounts { type: TYPE_VOLUME source: "b" target: "/data/" } } }`},
		{`task { container { mounts { type: TYPE_VOLUME source: "a" target: "/data" } } }`, "--mount-rm /data/", ``},
		{`task { ports { protocol: PROTOCOL_TCP target: 80 published: 8080 mode: MODE_HOST } ports { protocol: PROTOCOL_UDP target: 80 mode: MODE_HOST } }`,
			"--publish-rm 80 --publish-add published=81,target=81,mode=host", `task { ports { protocol: PROTOCOL_UDP target: 80 mode: MODE_HOST } ports { protocol: PROTOCOL_TCP target: 81 published: 81 mode: MODE_HOST } }`},
		{`task { ports { protocol: PROTOCOL_TCP target: 80 published: 8080 mode: MODE_INGRESS policy: POLICY_CLUSTER source: SOURCE_PRESERVE } }`, "--publish-add 8081:80 --publish-add published=8080,target=80,policy=local",
			`task { ports { protocol: PROTOCOL_TCP target: 80 published: 8080 mode: MODE_INGRESS policy: POLICY_LOCAL } ports { protocol: PROTOCOL_TCP target: 80 published: 8081 mode: MODE_INGRESS } }`},
		{`task { networks { network_id: "n1" network_name: "web" aliases: "www" } networks { network_id: "n2" network_name: "back" } }`, "--network-rm web --network-rm n2 --network-add name=web,alias=w",
			`task { networks { network_name: "web" aliases: "w" } }`},
		{`task { container { dns { servers: "10.0.0.2" search: "a.test" options: "ndots:2" } } }`, "--dns-rm 10.0.0.2 --dns-add 10.0.0.3 --dns-search-rm a.test --dns-option-rm ndots:2 --dns-option-add rotate",
			`task { container { dns { servers: "10.0.0.3" options: "rotate" } } }`},
		{`task { container { dns { servers: "10.0.0.2" } } }`, "--dns-rm 10.0.0.2", ``},
		{``, "--dns-rm 10.0.0.2 --dns-search-rm a.test", ``},
		{`endpoint_mode: ENDPOINT_MODE_VIP`, "--endpoint-mode dnsrr", `endpoint_mode: ENDPOINT_MODE_DNSRR`},
		{`task { ports { protocol: PROTOCOL_UDP target: 53 published: 53 mode: MODE_HOST } }`, "--publish-rm 53:53/udp", `task {}`},
		{`task { container { secrets { id: "1" name: "a" target: "a" } } }`, "--secret-rm a --secret-add source=b,target=a", `task { container { secrets { name: "b" target: "a" uid: "0" gid: "0" mode: 292 } } }`},
		{`task { container { configs { id: "1" name: "a" target: "/a" } } }`, "--config-rm a --config-add b", `task { container { configs { name: "b" target: "/b" uid: "0" gid: "0" mode: 292 } } }`},
		{`task { container { cap_add: "CAP_CHOWN" cap_drop: "CAP_KILL" } }`, "--cap-add KILL --cap-drop CHOWN", `task { container { cap_add: "CAP_KILL" cap_drop: "CAP_CHOWN" } }`},
		{`task { container { image: "a" args: "x" user: "me" } }`, "--image b --user=", `task { container { image: "b" args: "x" } }`},
		{`task { force_update: 1 }`, "--force", `task { force_update: 2 }`},
		{`task { force_update: 1 }`, "--force=false", `task { force_update: 1 }`},
		{`replicated { replicas: 2 }`, "--replicas 5", `replicated { replicas: 5 }`},
		{``, "--update-delay 1s", `update { parallelism: 1 delay { seconds: 1 } }`},
	} {
		old := parse(t, test.old)
		before := proto.Clone(old)
		got, err := updateFrom(t, old, strings.Fields(test.args)...)
		if err != nil {
			t.Errorf("update %s: %v", test.args, err)
			continue
		}
		want := parse(t, test.want)
		container(want)
		if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.FilterField(&pb.ServiceSpec{}, "labels", cmp.Comparer(func(a, b map[string]string) bool { return cmp.Equal(a, b) }))); diff != "" {
			t.Errorf("update %s (-want +got):\n%s", test.args, diff)
		}
		if !proto.Equal(before, old) {
			t.Errorf("update %s changed the old spec", test.args)
		}
	}
}

// Every list flag of create has its two on update, and the other way round.
func TestListFlagsComeInPairs(t *testing.T) {
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	CreateFlags(set)
	up := pflag.NewFlagSet("", pflag.ContinueOnError)
	UpdateFlags(up)
	single := map[string]bool{"env-file": true, "cap-add": true, "cap-drop": true, "log-opt": true}
	set.VisitAll(func(f *pflag.Flag) {
		if f.Value.Type() == "list" && !single[f.Name] && (up.Lookup(f.Name+"-add") == nil || up.Lookup(f.Name+"-rm") == nil) {
			t.Errorf("--%s has no pair on update", f.Name)
		}
		if Unsupported(f.Name) {
			t.Errorf("--%s is supported", f.Name)
		}
	})
}

func TestBadValues(t *testing.T) {
	for _, args := range [][]string{
		{"--label", "=x"}, {"--env", "=x"}, {"--env-file", "nosuch"}, {"--entrypoint", `"open`}, {"--tty=perhaps"},
		{"--stop-grace-period", "-1s"}, {"--stop-grace-period", "5"}, {"--limit-cpu", "1e3"}, {"--limit-cpu", "0.0000000001"}, {"--limit-cpu", "-1"}, {"--limit-cpu", "1/2"},
		{"--limit-memory", "-1"}, {"--limit-memory", "lots"}, {"--limit-pids", "-1"}, {"--replicas", "-1"}, {"--replicas", "many"}, {"--mode", "global", "--replicas", "2"},
		{"--mode", "x"}, {"--restart-condition", "always"}, {"--restart-max-attempts", "x"}, {"--update-order", "x"}, {"--rollback-failure-action", "rollback"},
		{"--update-max-failure-ratio", "1.5"}, {"--update-max-failure-ratio", "NaN"}, {"--log-driver", "syslog"}, {"--log-opt", "max-file=0"}, {"--log-opt", "tag=x"}, {"--placement-pref", "node.labels.x"}, {"--constraint", ""},
		{"--cap-add", ""}, {"--mount", "target=x"}, {"--mount", "type=bind,target=/x"}, {"--mount", "type=bind,source=rel,target=/x"}, {"--mount", "type=tmpfs,source=x,target=/x"}, {"--mount", "source=/x,target=/x"},
		{"--mount", "type=npipe,target=/x"}, {"--mount", "target=/x,tmpfs-size=1m"}, {"--mount", "type=bind,source=/a,target=/b,volume-nocopy"}, {"--mount", "target=/a,bind-propagation=shared"}, {"--mount", "target=/x,volume-driver=y"}, {"--mount", "target=/x,foo=y"}, {"--mount", ""}, {"--mount", "target=/x", "--mount", "target=/x/"},
		{"-p", ""}, {"-p", "0"}, {"-p", "65536"}, {"-p", "a:b"}, {"-p", "1.2.3:80:80"}, {"-p", ":80:80"}, {"-p", "[::1:80:80"}, {"-p", "fe80::1%eth0:80:80"}, {"-p", "80-90" + ":80-91"}, {"-p", "1.2.3.4:80"}, {"-p", "80-81:80"}, {"-p", "81-80"}, {"-p", "80/icmp"}, {"-p", "published=80"}, {"-p", "target=80,mode=x"}, {"-p", "target=80,foo=x"}, {"-p", "target=80,host_ip=x"}, {"-p", "target=80,policy=x"}, {"-p", "target=80,source=x"}, {"-p", "target=80,mode=host,policy=local"}, {"-p", "target=80,mode=host,source=preserve"}, {"-p", "target=80,published=80-81"},
		{"--network", ""}, {"--network", "alias=x"}, {"--network", "web,alias="}, {"--network", "web,name=x"}, {"--network", "web,driver-opt=x=y"}, {"--network", "web,x=y"}, {"--network", "web", "--network", "name=web"},
		{"--endpoint-mode", "x"}, {"--dns", ""}, {"--dns", "example.test"}, {"--dns-search", ""}, {"--dns-option", ""},
		{"--secret", ""}, {"--secret", "target=x"}, {"--secret", "source=x,mode=888"}, {"--secret", "source=x,mode=77777"}, {"--secret", "a", "--secret", "a"}, {"--config", "source=x,foo=1"},
	} {
		if s, err := createFrom(t, args...); !fault.Is(err, fault.Invalid) {
			t.Errorf("create %q made %v, %v", args, s, err)
		} else if !strings.Contains(err.Error(), "invalid --") {
			t.Errorf("create %q does not name the flag: %v", args, err)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for in, want := range map[string][]string{
		"":                nil,
		"  a  b\tc ":      {"a", "b", "c"},
		`a 'b c' "d \"e"`: {"a", "b c", `d "e`},
		`a\ b ''`:         {"a b", ""},
		`'\n' x"y"z`:      {`\n`, "xyz"},
	} {
		got, err := SplitWords(in)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("SplitWords(%q) = %q, %v", in, got, err)
		}
	}
}

func TestUnsupported(t *testing.T) {
	for name, want := range map[string]bool{"--health-cmd": false, "--host-add": false, "--init": false, "--isolation": true, "--aux-address": true, "--network-add": false, "--dns-rm": false, "--publish": false, "--nosuch": false, "--": false, "--add": false} {
		if Unsupported(name) != want {
			t.Errorf("Unsupported(%q) = %v", name, !want)
		}
	}
}

func TestDefaultName(t *testing.T) {
	for image, want := range map[string]string{"nginx:1": "nginx-uvwxyz", "reg.test:5000/a/b@sha256:" + strings.Repeat("0", 64): "b-uvwxyz", "BAD IMAGE": "service-uvwxyz"} {
		if got := DefaultName(image, "abcdefuvwxyz"); got != want {
			t.Errorf("DefaultName(%q) = %q", image, got)
		}
	}
}

func FuzzMount(f *testing.F) {
	for _, s := range []string{"type=bind,source=/a,target=/b,ro", `"target=/a,b",tmpfs-size=1m,type=tmpfs`, "=", "readonly=maybe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := ParseMount(s); err == nil && (m.Target == "" || m.Type == 0) {
			t.Errorf("%q made an incomplete mount: %v", s, m)
		}
	})
}

func FuzzFileReference(f *testing.F) {
	for _, s := range []string{"pw", "source=a,target=b,uid=1,gid=2,mode=0400", "src=a", ","} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, config bool) {
		if r, err := ParseFileReference(s, config); err == nil && (r.Name == "" || r.Target == "" || r.Mode > 0o7777) {
			t.Errorf("%q made %v", s, r)
		}
	})
}
