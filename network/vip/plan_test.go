package vip

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/minid/minid/network/netns"
)

var update = flag.Bool("update", false, "write the golden files")

// A situation is a table's life: each step changes it, or sweeps it.
type step struct {
	put    Wanted
	remove []netip.Addr
	sweep  bool
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

func web(backends ...string) Wanted { return Wanted{addr("10.0.0.5"): addrs(backends...)} }

var (
	one   = "10.0.0.11"
	two   = "10.0.0.12"
	three = "10.0.0.13"
	four  = "10.0.0.14"
)

var situations = map[string][]step{
	"nothing":         {},
	"no-backends":     {{put: web()}},
	"one-backend":     {{put: web(one)}},
	"three-backends":  {{put: web(one, two, three)}},
	"unsorted":        {{put: web(three, one, two, one)}},
	"ipv6":            {{put: Wanted{addr("fd00::5"): addrs("fd00::11", "fd00::12")}}},
	"both-families":   {{put: Wanted{addr("10.0.0.5"): addrs(one, two), addr("fd00::5"): addrs("fd00::11")}}},
	"shared-group":    {{put: Wanted{addr("10.0.0.5"): addrs(one, two), addr("10.0.0.6"): addrs(three, four)}}},
	"grown":           {{put: web(two, three)}, {put: web(one, two, three, four)}},
	"shrunk":          {{put: web(one, two, three)}, {put: web(two, three)}},
	"shrunk-swept":    {{put: web(one, two, three)}, {put: web(two, three)}, {sweep: true}},
	"shrunk-regrown":  {{put: web(one, two, three)}, {put: web(one)}, {put: web(one, four)}, {sweep: true}},
	"replaced":        {{put: web(one, two)}, {put: web(two, three)}},
	"emptied":         {{put: web(one, two)}, {put: web()}},
	"emptied-swept":   {{put: web(one, two)}, {put: web()}, {sweep: true}},
	"removed":         {{put: web(one, two)}, {remove: addrs("10.0.0.5")}},
	"removed-swept":   {{put: web(one, two)}, {remove: addrs("10.0.0.5")}, {sweep: true}},
	"removed-and-put": {{put: web(one, two)}, {put: web(three), remove: addrs("10.0.0.5")}, {sweep: true}},
	"removed-unknown": {{put: web(one)}, {remove: addrs("10.0.0.99", "fd00::9")}},
}

// TestGolden compares each situation with its text, and the text with what nft
// lists when the kernel went the same way.
func TestGolden(t *testing.T) {
	for name, steps := range situations {
		t.Run(name, func(t *testing.T) {
			m, now := newImage(), time.Unix(1000, 0)
			ns := newNetns(t)
			b := open(t, ns)
			must(t, b.Set(nil))
			for _, s := range steps {
				if s.sweep {
					now = now.Add(grace)
					m.sweep(now)
					b.age()
					must(t, b.Sweep())
					continue
				}
				put, err := s.put.normal()
				must(t, err)
				m.change(put, s.remove, now)
				must(t, b.Change(s.put, s.remove))
			}
			path := filepath.Join("testdata", name+".txt")
			if *update {
				must(t, os.WriteFile(path, []byte(m.render()), 0o644))
			}
			golden, err := os.ReadFile(path)
			must(t, err)
			if diff := cmp.Diff(string(golden), m.render()); diff != "" {
				t.Error(diff)
			}
			mustBeListed(t, ns, string(golden))
			b.mustBeKnown(t)
		})
	}
}

func TestRenderIsFresh(t *testing.T) {
	golden, err := os.ReadFile("testdata/unsorted.txt")
	must(t, err)
	w, err := web(three, one, two, one).normal()
	must(t, err)
	if diff := cmp.Diff(string(golden), w.Render()); diff != "" {
		t.Error(diff)
	}
}

func TestRefusesNonsense(t *testing.T) {
	for _, w := range []Wanted{
		{addr("10.0.0.5"): addrs("fd00::1")},
		{addr("fd00::5"): addrs(one)},
		{addr("::ffff:10.0.0.5"): nil},
		{netip.Addr{}: nil},
		{addr("10.0.0.5"): {netip.Addr{}}},
		{addr("fd00::5"): addrs("::ffff:10.0.0.1")},
	} {
		if _, err := w.normal(); err == nil {
			t.Errorf("%v is accepted", w)
		}
	}
}

func TestArrange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := drawBackends(t, "have", true)
		want := drawBackends(t, "want", false)
		got := arrange(have, want)
		if sorted := slices.SortedFunc(slices.Values(got), netip.Addr.Compare); !slices.Equal(sorted, want) {
			t.Fatalf("%v arranged in %v: %v", want, have, got)
		}
		for i, a := range got {
			if i < len(have) && have[i] != a && slices.Contains(want, have[i]) && slices.Index(have, have[i]) == i {
				t.Errorf("slot %d of %v went from %v to %v", i, got, have[i], a)
			}
		}
	})
}

// drawBackends draws a few of the first addresses: sorted as in a Wanted, or as
// slots, in any order with gaps.
func drawBackends(t *rapid.T, label string, slots bool) []netip.Addr {
	list := rapid.SliceOfN(rapid.IntRange(0, 7), 0, 6).Draw(t, label)
	if !slots {
		slices.Sort(list)
		list = slices.Compact(list)
	}
	out := make([]netip.Addr, len(list))
	for i, n := range list {
		if n > 0 || !slots {
			out[i] = netip.AddrFrom4([4]byte{10, 0, 1, byte(n)})
		}
	}
	return out
}

// model is what an image should have come to.
type model struct {
	wanted Wanted
	now    time.Time
}

func drawChange(t *rapid.T) (put Wanted, remove []netip.Addr) {
	put = Wanted{}
	for _, n := range rapid.SliceOfN(rapid.IntRange(1, 4), 0, 3).Draw(t, "put") {
		put[netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})] = drawBackends(t, "backends", false)
	}
	for _, n := range rapid.SliceOfN(rapid.IntRange(1, 4), 0, 2).Draw(t, "remove") {
		remove = append(remove, netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}))
	}
	return put, remove
}

func (m *model) change(put Wanted, remove []netip.Addr) {
	for _, vip := range remove {
		delete(m.wanted, vip)
	}
	maps.Copy(m.wanted, put)
}

// ordered is the image with the used slots of each VIP in order: which backend
// has which slot depends on the past, and means nothing.
func (m *image) ordered() string {
	out := newImage()
	out.groups = m.groups
	for vip, s := range m.services {
		c := *s
		c.slots = slices.Clone(s.slots)
		slices.SortFunc(c.slots[:c.count], netip.Addr.Compare)
		out.services[vip] = &c
	}
	return out.render()
}

// TestWaysLeadToTheSame: whatever happened, after a last sweep the table is as
// if it had been made at once; and a packet that read the table before a
// transaction finds its slot after it.
func TestWaysLeadToTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, want := newImage(), model{wanted: Wanted{}, now: time.Unix(1000, 0)}
		table := map[string]element{}
		for range rapid.IntRange(0, 12).Draw(t, "steps") {
			want.now = want.now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond)
			if rapid.Bool().Draw(t, "sweep") {
				swept := m.sweep(want.now)
				apply(t, table, &swept)
			} else {
				put, remove := drawChange(t)
				want.change(put, remove)
				c := m.change(put, remove, want.now)
				for _, tx := range []*transaction{&c.first, &c.second} {
					before := counts(table)
					apply(t, table, tx)
					allSlots(t, table, before)
				}
			}
			allSlots(t, table, counts(table))
			if got, kept := slices.Sorted(maps.Keys(table)), m.keys(); !slices.Equal(got, kept) {
				t.Fatal("transactions and image differ:", cmp.Diff(got, kept))
			}
		}
		m.sweep(want.now.Add(grace))
		fresh, _ := newImage().set(want.wanted, never)
		if diff := cmp.Diff(fresh.ordered(), m.ordered()); diff != "" {
			t.Error(diff)
		}
	})
}

// keys of all elements of the image, as text.
func (m *image) keys() (out []string) {
	for vip, s := range m.services {
		for _, e := range s.elements(vip) {
			out = append(out, key(e))
		}
	}
	slices.Sort(out)
	return out
}

func key(e element) string { return fmt.Sprint(e.set.name(), " ", e) }

// apply does with a table what the kernel does: it refuses a transaction that
// removes what is not there, or adds what is there otherwise.
func apply(t *rapid.T, table map[string]element, tx *transaction) {
	for _, e := range tx.delete {
		if _, ok := table[key(e)]; !ok {
			t.Fatalf("%s is deleted and is not there", key(e))
		}
		delete(table, key(e))
	}
	for _, e := range tx.add {
		for _, old := range table {
			if old.set == e.set && old.vip == e.vip && old.slot == e.slot {
				t.Fatalf("%s is added and %s is there", key(e), key(old))
			}
		}
		table[key(e)] = e
	}
}

func counts(table map[string]element) map[netip.Addr]int {
	out := map[netip.Addr]int{}
	for _, e := range table {
		if e.set.kind == services {
			out[e.vip] = e.count
		}
	}
	return out
}

// allSlots checks that every slot that a packet may draw leads somewhere.
func allSlots(t *rapid.T, table map[string]element, counts map[netip.Addr]int) {
	for vip, n := range counts {
		for _, e := range table {
			if e.set.kind == slots && e.vip == vip && e.slot < n {
				counts[vip]--
			}
		}
		if counts[vip] != 0 {
			t.Fatalf("%s lacks %d of its %d slots", vip, counts[vip], n)
		}
	}
}

// TestKernelWaysLeadToTheSame is the same on the kernel.
func TestKernelWaysLeadToTheSame(t *testing.T) {
	ns, other := newNetns(t), newNetns(t)
	b, fresh := open(t, ns), open(t, other)
	rapid.Check(t, func(rt *rapid.T) {
		want := model{wanted: Wanted{}}
		must(t, b.Set(nil))
		for range rapid.IntRange(0, 6).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				b.age()
				must(t, b.Sweep())
			case 1: // minid restarts
				must(t, b.Close())
				b = open(t, ns)
				must(t, b.Set(want.wanted))
			default:
				put, remove := drawChange(rt)
				want.change(put, remove)
				must(t, b.Change(put, remove))
			}
		}
		b.age()
		must(t, b.Sweep())
		must(t, fresh.Set(want.wanted))
		fresh.age()
		must(t, fresh.Sweep())
		if diff := cmp.Diff(dump(t, fresh), dump(t, b)); diff != "" {
			rt.Error(diff)
		}
	})
}

// dump is what the kernel holds, as ordered text.
func dump(t *testing.T, b *Balancer) string {
	t.Helper()
	found, err := b.read()
	must(t, err)
	if !found.intact {
		t.Fatal("table is not intact")
	}
	return found.image.ordered()
}

// age makes the table's leftovers old enough to be swept.
func (b *Balancer) age() {
	for _, s := range b.image.services {
		s.left = s.left.Add(-grace)
	}
	for g, u := range b.image.groups {
		u.left = u.left.Add(-grace)
		b.image.groups[g] = u
	}
}

// mustBeKnown compares what the balancer believes with what the kernel holds.
func (b *Balancer) mustBeKnown(t *testing.T) {
	t.Helper()
	b.generation-- // nothing changed, but look
	if ok, err := b.Check(); !ok || err != nil {
		t.Errorf("table is not as left: %v", err)
	}
}

// mustBeListed compares what nft lists with the text.
func mustBeListed(t *testing.T, ns, text string) {
	t.Helper()
	var out []byte
	must(t, netns.Do(ns, func() (err error) {
		out, err = exec.Command("nft", "list", "table", "inet", TableName).CombinedOutput()
		return err
	}))
	_, listed, _ := strings.Cut(string(out), "{") // the first line tells the owner
	_, want, _ := strings.Cut(text, "{")
	listed = strings.Replace(listed, "flags owner", "", 1)
	// The kernel lists the elements of a set in no order.
	normal := func(s string) []string {
		s = s[strings.Index(s, "set vips"):]
		return slices.Sorted(strings.FieldsSeq(strings.ReplaceAll(s, ",", " ")))
	}
	if diff := cmp.Diff(normal(want), normal(listed)); diff != "" {
		t.Error("nft lists otherwise:", diff)
	}
}
