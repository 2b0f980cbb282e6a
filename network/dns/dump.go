package dns

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/nft"
)

// DumpNames writes the names that questions are answered by, in the form of Render.
func (s *Server) DumpNames() string {
	s.names.RLock()
	defer s.names.RUnlock()
	networks := make(map[string]map[string]Service, len(s.zones))
	for network, z := range s.zones {
		networks[network] = make(map[string]Service, len(z.services))
		for id, known := range z.services {
			networks[network][id] = known.Service
		}
	}
	return Render(networks)
}

// Compare writes how Open(t) would answer a task's questions, and how they are
// answered: sockets, and the table that leads to them.
func (s *Server) Compare(t Task) (wanted, actual string, err error) {
	s.mu.Lock()
	l := s.tasks[t.ID]
	s.mu.Unlock()
	ports := wantedPorts(l)
	if l != nil && l.in(t.Netns) {
		actual = l.task.Load().Render() + ports.sockets()
	}
	c, err := nft.Connect(t.Netns)
	if err != nil {
		return "", "", err
	}
	defer c.CloseLasting()
	table, err := nft.Dump(c, ports.layout())
	return withoutItself(t).Render() + ports.sockets() + ports.Render(), actual + table, err
}

// wantedPorts are a listener's, or those that one would have that is made now.
func wantedPorts(l *listener) wanted {
	if l == nil {
		return wanted{UDP: firstPort, TCP: firstPort}
	}
	return l.ports
}

func (w wanted) sockets() string {
	return fmt.Sprintf("# sockets %s:%d/udp %s:%d/tcp\n", Address, w.UDP, Address, w.TCP)
}

func (w wanted) layout() nft.Layout {
	out := nft.ChainLayout{Name: chainName, Head: "type nat hook output priority -100; policy accept;", Same: sameChain}
	for _, r := range w.rules() {
		out.Rules = append(out.Rules, nft.RuleLayout{Text: r.text, Same: func(have []expr.Any) bool {
			return nft.Same(unix.NFPROTO_IPV4, r.exprs, have)
		}})
	}
	return nft.Layout{Table: table(), Title: "ip " + TableName, Chains: []nft.ChainLayout{out}}
}

func sameChain(k *nftables.Chain) bool {
	return k.Hooknum != nil && k.Priority != nil && k.Type == nftables.ChainTypeNAT &&
		*k.Hooknum == *nftables.ChainHookOutput && *k.Priority == *nftables.ChainPriorityNATDest
}
