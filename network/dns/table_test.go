package dns

import (
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"github.com/minid/minid/network/netns"
)

const golden = `table ip minid_dns {
	chain output {
		type nat hook output priority -100; policy accept;
		ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:61053
		ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:61054
	}
}
`

func TestRender(t *testing.T) {
	if diff := cmp.Diff(golden, wanted{UDP: 61053, TCP: 61054}.Render()); diff != "" {
		t.Error(diff)
	}
}

// listed is a namespace's table as nft lists it.
func listed(t *testing.T, path string) (text string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	err := netns.Do(path, func() error {
		out, err := exec.Command("nft", "list", "ruleset").Output()
		text = string(out)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKernelHasWhatIsRendered(t *testing.T) {
	path := namespace(t, "a")
	w := wanted{UDP: 61053, TCP: 61054}
	for range 2 {
		if err := w.set(path); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(golden, listed(t, path)); diff != "" {
			t.Error(diff)
		}
	}
	if err := (wanted{UDP: 1, TCP: 2}).set(path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted{UDP: 1, TCP: 2}.Render(), listed(t, path)); diff != "" {
		t.Error(diff)
	}
}

func TestCheckFindsWhatOthersBroke(t *testing.T) {
	path := namespace(t, "a")
	task := Task{ID: "t", Netns: path, Networks: []string{"n"}}
	s := serveWeb(t, Config{Upstreams: nobody}, task)
	breaks := map[string]string{
		"flushed":    "flush ruleset",
		"no table":   "delete table ip minid_dns",
		"no rules":   "flush chain ip minid_dns output",
		"more rules": "add rule ip minid_dns output udp dport 53 accept",
		"other port": "flush ruleset; add table ip minid_dns; add chain ip minid_dns output { type nat hook output priority -100; }; " +
			"add rule ip minid_dns output ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:9; " +
			"add rule ip minid_dns output ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:9",
	}
	for name, command := range breaks {
		t.Run(name, func(t *testing.T) {
			listed(t, path)
			err := netns.Do(path, func() error { return exec.Command("nft", command).Run() })
			if err != nil {
				t.Fatal(err)
			}
			if intact(t, s, "t") {
				t.Fatal("said to be intact:", listed(t, path))
			}
			if err := s.Open(task); err != nil {
				t.Fatal(err)
			}
			if !intact(t, s, "t") {
				t.Error("not repaired:", listed(t, path))
			}
			if got := ask(t, path, "udp", question("web", wire.TypeA)); len(got.Answer) != 1 {
				t.Error(got)
			}
		})
	}
}

// Others' tables are left alone.
func TestOnlyItsOwnTable(t *testing.T) {
	path := namespace(t, "a")
	const other = "table ip other {\n\tchain c {\n\t}\n}\n"
	listed(t, path)
	err := netns.Do(path, func() error { return exec.Command("nft", "add table ip other; add chain ip other c").Run() })
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []wanted{{1, 2}, {3, 4}} {
		if err := w.set(path); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(other+w.Render(), listed(t, path)); diff != "" {
			t.Error(diff)
		}
	}
}
