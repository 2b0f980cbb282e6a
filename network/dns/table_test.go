package dns

import (
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"github.com/minid/minid/internal/realtest"
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

// ruleset is a namespace's table as nft lists it.
func ruleset(t *testing.T, path string) (text string) {
	t.Helper()
	nft := realtest.NeedProgram(t, "nft")
	err := netns.Do(path, func() error {
		out, err := exec.Command(nft, "list", "ruleset").Output()
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
		if diff := cmp.Diff(golden, ruleset(t, path)); diff != "" {
			t.Error(diff)
		}
	}
	if err := (wanted{UDP: 1, TCP: 2}).set(path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted{UDP: 1, TCP: 2}.Render(), ruleset(t, path)); diff != "" {
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
			ruleset(t, path)
			err := netns.Do(path, func() error { return exec.Command("nft", command).Run() })
			if err != nil {
				t.Fatal(err)
			}
			if intact(t, s, "t") {
				t.Fatal("said to be intact:", ruleset(t, path))
			}
			if err := s.Open(task); err != nil {
				t.Fatal(err)
			}
			if !intact(t, s, "t") {
				t.Error("not repaired:", ruleset(t, path))
			}
			if got := ask(t, path, "udp", question("web", wire.TypeA)); len(got.Answer) != 1 {
				t.Error(got)
			}
		})
	}
}

// Flows that began while the table was away would go on to lead nowhere, for a
// client that keeps its socket.
func TestFlowsFromBeforeRepair(t *testing.T) {
	path := namespace(t, "a")
	task := Task{ID: "t", Netns: path, Networks: []string{"n"}}
	s := serveWeb(t, Config{Upstreams: nobody}, task)
	ruleset(t, path)
	var client *wire.Conn
	err := netns.Do(path, func() (err error) {
		// Something else that has the kernel follow connections.
		rules := "flush ruleset; add table ip x; add chain ip x c { type nat hook output priority 0; }; add rule ip x c ct state new accept"
		if err := exec.Command("nft", rules).Run(); err != nil {
			return err
		}
		client, err = wire.Dial("udp", "127.0.0.11:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.WriteMsg(question("web", wire.TypeA)); err != nil {
		t.Fatal(err)
	}
	if n, err := countFlows(path); n != 1 || err != nil {
		t.Fatal("the kernel follows", n, err)
	}
	if err := s.Open(task); err != nil {
		t.Fatal(err)
	}
	_ = client.WriteMsg(new(wire.Msg)) // takes the refusal of the first one
	reply, _, err := (&wire.Client{Timeout: patience}).ExchangeWithConn(question("web", wire.TypeA), client)
	if err != nil || len(reply.Answer) != 1 {
		t.Error(reply, err)
	}
}

// Others' tables are left alone.
func TestOnlyItsOwnTable(t *testing.T) {
	path := namespace(t, "a")
	const other = "table ip other {\n\tchain c {\n\t}\n}\n"
	ruleset(t, path)
	err := netns.Do(path, func() error { return exec.Command("nft", "add table ip other; add chain ip other c").Run() })
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []wanted{{1, 2}, {3, 4}} {
		if err := w.set(path); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(other+w.Render(), ruleset(t, path)); diff != "" {
			t.Error(diff)
		}
	}
}
