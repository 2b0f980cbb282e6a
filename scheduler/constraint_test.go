package scheduler

import (
	"strings"
	"testing"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestParseConstraintRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "no operator",
		"node.id":                     "no operator",
		"node.id = x":                 "no operator",
		"node.id ! x":                 "no operator",
		"node.id ==":                  "no value",
		"node.id !=  ":                "no value",
		"node.id === x":               "the operator is",
		"node.id == x == y":           "more than one operator",
		"node.id == a != b":           "more than one operator",
		"== x":                        `unknown key ""`,
		"$node.id == x":               "unknown key",
		"node.name == x":              `unknown key "node.name"`,
		"node.labels. == x":           "unknown key",
		"node.labels.a b == x":        "unknown key",
		"service.labels.x == y":       "unknown key",
		"node.ip == 10.0.0":           "neither an IP address nor a subnet",
		"node.ip != 10.0.0.0/33":      "neither an IP address nor a subnet",
		"node.role == boss":           "manager or worker",
		"node.platform.version == 11": "unknown key",
		"node.labels.a in":            "no operator",
		"node.labels.a in ()":         "a value in the list is empty",
		"node.labels.a in (x,,y)":     "a value in the list is empty",
		"node.labels.a notin x,y":     "no operator",
		"a b in (x)":                  "no operator",
		"disk in (x)":                 `unknown key "disk"`,
		"node.role in (worker,boss)":  "manager or worker",
		"node.ip notin (10.0.0.1,x)":  "neither an IP address nor a subnet",
		"node.id exists":              "only for labels",
		"node.role !exists":           "only for labels",
		"node.ip < 10":                "only for labels",
		"node.labels.a exists x":      "no operator",
		"node.labels.a <":             "no value",
		"node.labels.a <= 3":          "the operator is",
		"node.labels.a < many":        "not a number",
		"node.labels.a > inf":         "not a number",
		"node.labels.a < 3 != 2":      "more than one operator",
	} {
		_, err := ParseConstraint(text)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	_, err := ParseConstraint("node.name == x")
	if !strings.Contains(fault.TryOf(err), "node.hostname") {
		t.Errorf("unknown key: no list of keys, but %q", fault.TryOf(err))
	}
	if _, err := ParseConstraints([]string{"node.id==a", "b"}); err == nil {
		t.Error("a bad one among good ones is accepted")
	}
}

func TestConstraintMatches(t *testing.T) {
	n := testNode("n1", label("disk", "SSD"), label("odd", "a.*(b)?"), label("bare", ""), label("cores", "8"), engineLabel("zone", "east"))
	for text, want := range map[string]bool{
		"node.id==n1":                        true,
		"NODE.ID == N1":                      true,
		"node.id!=n1":                        false,
		"node.id==n":                         false,
		"node.hostname == n1":                true,
		"node.hostname != n2":                true,
		"node.role==worker":                  true,
		"node.role==Manager":                 false,
		"node.role!=manager":                 true,
		"node.ip==10.1.2.3":                  true,
		"node.ip==10.1.2.4":                  false,
		"node.ip!=10.1.2.4":                  true,
		"node.ip==10.1.0.0/16":               true,
		"node.ip==10.2.0.0/16":               false,
		"node.ip!=10.1.0.0/16":               false,
		"node.ip==fe80::/10":                 false,
		"node.platform.os==Linux":            true,
		"node.platform.arch==amd64":          true,
		"node.platform.arch==x86_64":         true,
		"node.platform.arch!=aarch64":        true,
		"node.labels.disk == ssd":            true,
		"node.labels.disk != hdd":            true,
		"node.labels.Disk == ssd":            false, // label names keep their case
		"Node.Labels.disk == ssd":            true,
		"node.labels.disk == s":              false,
		"node.labels.disk == .*":             false, // no patterns
		"node.labels.odd == a.*(b)?":         true,
		"node.labels.none == x":              false,
		"node.labels.none != x":              true, // a missing label is empty
		"engine.labels.zone==EAST":           true,
		"engine.labels.disk==ssd":            false,
		"node.labels.zone != east":           true,
		"node.labels.com.example/a-b_c != 1": true,
		"node.labels.disk==ssd=x":            false,

		"node.labels.disk in (hdd, SSD)":         true,
		"node.labels.disk in(hdd,nvme)":          false,
		"node.labels.disk notin (hdd,nvme)":      true,
		"node.labels.disk notin (hdd,ssd)":       false,
		"node.labels.none in (x)":                false,
		"node.labels.none notin (x)":             true,
		"node.hostname in (n1,n2)":               true,
		"node.id notin (n1,n2)":                  false,
		"node.role in (manager,worker)":          true,
		"node.ip in (10.9.0.0/16,10.1.0.0/16)":   true,
		"node.ip notin (10.9.0.0/16,10.1.2.3)":   false,
		"node.platform.arch in (aarch64,x86_64)": true,
		"node.labels.disk exists":                true,
		"node.labels.bare exists":                true,
		"node.labels.bare !exists":               false,
		"node.labels.none exists":                false,
		"node.labels.none!exists":                true,
		"engine.labels.zone exists":              true,
		"engine.labels.disk !exists":             true,
		"node.labels.cores < 9":                  true,
		"node.labels.cores<8":                    false,
		"node.labels.cores > 7.5":                true,
		"node.labels.cores > 10":                 false, // as a text it would be more
		"node.labels.disk < 10":                  false,
		"node.labels.disk > 10":                  false,
		"node.labels.none < 10":                  false,
		"engine.labels.zone > -1":                false,
		"node.labels.odd in (a.*(b)?,c)":         true,
		"node.labels.disk == ssd in (a)":         false,
	} {
		c, err := ParseConstraint(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		s := setOf(n)
		if got := c.matches(s.nodes["n1"]); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestUnreadableStoredConstraintFitsNowhere(t *testing.T) {
	s := setOf(testNode("n1"))
	g := groupFor("web", constrainedBy("node.future==x"), 1)
	if got := place(t, s, g); len(got) != 0 {
		t.Errorf("placed: %v", got)
	}
	if got, want := s.Explain(g, g.Tasks[0]).Summary(), "0 of 1 nodes fit: 1 is refused by the unreadable constraint node.future==x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseSpread(t *testing.T) {
	n := setOf(testNode("n1", label("rack", "r1"), engineLabel("zone", "east"))).nodes["n1"]
	for text, want := range map[string]string{
		"node.labels.rack": "r1", "engine.labels.zone": "east", "Node.Labels.rack": "r1", "node.labels.zone": "",
	} {
		k, err := ParseSpread(text)
		if err != nil || k.value(n) != want {
			t.Errorf("%q: got %q, %v", text, k.value(n), err)
		}
	}
	for _, text := range []string{"", "rack", "node.id", "node.labels.", "node.labels.a==b"} {
		if _, err := ParseSpread(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// What parses has a canonical form that parses to the same.
func FuzzParseConstraint(f *testing.F) {
	for _, seed := range []string{
		"node.labels.disk == ssd", "engine.labels.a!=B", "node.ip==10.0.0.0/8", "node.ip!=::1",
		"node.labels.a in (b, A,a)", "node.ip notin (::1,10.0.0.0/8)", "node.labels.gpu exists", "node.labels.gpu!exists",
		"node.labels.cores<1e3", "engine.labels.x > -0", "node.platform.arch in (x86_64,amd64)",
		"node.role==manager", "NODE.PLATFORM.ARCH==x86_64", "a==b==c", "node.id====", "!=",
	} {
		f.Add(seed)
	}
	n := setOf(testNode("n1", label("disk", "ssd"))).nodes["n1"]
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConstraint(text)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := ParseConstraint(c.String())
		if err != nil {
			t.Fatalf("%q: canonical form %q: %v", text, c.String(), err)
		}
		if again.String() != c.String() || again.matches(n) != c.matches(n) {
			t.Fatalf("%q: canonical form %q means something else", text, c.String())
		}
	})
}

func TestStillFits(t *testing.T) {
	n := testNode("n1", label("disk", "ssd"))
	for _, c := range []struct {
		spec *pb.TaskSpec
		why  string
	}{
		{nil, ""},
		{constrainedBy("node.labels.disk==ssd", "node.role==worker"), ""},
		{constrainedBy("node.labels.disk==hdd"), "lacks label disk=hdd"},
		{constrainedBy("node.role==manager"), "is not a manager"},
		{imageFor("linux", "amd64"), ""},
		{imageFor("linux", "arm64"), "runs linux/amd64, for which the image is not built"},
		{needMemory(1 << 30), ""},
		{needMemory(3 << 29), "needs 512 MiB more memory"},
	} {
		// Neither state nor availability nor load speak against a running task.
		n.Status.State = down
		n.Spec.Availability = pause
		ok, why := StillFits(runningTask("web", "t", "n1"), n, c.spec)
		if ok != (c.why == "") || why != c.why {
			t.Errorf("%v: got %v, %q, want %q", c.spec, ok, why, c.why)
		}
	}
}

func imageFor(os, arch string) *pb.TaskSpec {
	return &pb.TaskSpec{Container: &pb.ContainerSpec{Platforms: []*pb.ImagePlatform{{Os: os, Architecture: arch}}}}
}
