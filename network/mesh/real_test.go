package mesh

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/netns"
)

func TestEveryNodeAnswers(t *testing.T) {
	w := newWorld(t, 3)
	for _, protocol := range []bridge.Protocol{bridge.TCP, bridge.UDP} {
		p := Published{protocol, 8080}
		w.publish(p, Service{Target: 80}, 2, 3)
		for _, h := range w.hosts[1:] {
			seen := make(map[string]int)
			for range 40 {
				who, saw := w.call(w.client, networkOf(p), h.at(p))
				if saw != outside {
					t.Fatalf("by node %d: %s sees %s, the client is %s", h.number, who, saw, outside)
				}
				seen[who]++
			}
			if len(seen) != 2 {
				t.Errorf("by node %d: %v answer, of two tasks", h.number, seen)
			}
		}
	}
	if t.Failed() {
		dump(w)
	}
}

// dump shows what conntrack and the tables hold.
func dump(w *world) {
	for _, h := range w.hosts[1:] {
		_ = netns.Do(h.ns, func() error {
			out, err := exec.Command("sh", "-c", "nft list ruleset; ip route show table all; ip rule; cat /proc/net/nf_conntrack").CombinedOutput()
			fmt.Println(h.number, string(out), err)
			return nil
		})
	}
}

var _ net.Addr
var _ netip.Addr
