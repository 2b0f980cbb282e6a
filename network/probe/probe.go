// Package probe finds out whether the kernel can carry minid's networks, by
// making each kind of thing once in a namespace that is thrown away.
package probe

import (
	"errors"
	"fmt"
	"net"
	"runtime"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Feature is one thing that networks need.
type Feature struct {
	// Name as in the kernel's configuration.
	Name string
	// Err is why it does not work, nil if it does.
	Err error
}

// Features tries all of them. It needs root.
func Features() ([]Feature, error) {
	type outcome struct {
		features []Feature
		err      error
	}
	done := make(chan outcome)
	go func() {
		runtime.LockOSThread() // the thread ends with its namespace
		ns, err := netns.New()
		if err != nil {
			done <- outcome{err: fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		defer ns.Close()
		done <- outcome{features: try()}
	}()
	o := <-done
	return o.features, o.err
}

func try() []Feature {
	return []Feature{
		{"BRIDGE", netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "mnprobe0"}})},
		{"VETH", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "mnprobe1"}, PeerName: "mnprobe2"})},
		{"VXLAN", netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "mnprobe3"}, VxlanId: 1, Port: 4789})},
		{"NF_TABLES with NAT", tryNAT()},
	}
}

// tryNAT makes the kind of rule that published ports and outbound traffic need.
func tryNAT() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: "minid_probe", Family: nftables.TableFamilyIPv4})
	chain := conn.AddChain(&nftables.Chain{
		Name: "post", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
	return errors.Join(conn.Flush())
}

// MTU returns the interface of the default route and its MTU in bytes.
func MTU() (name string, mtu int, err error) {
	routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1)) // TEST-NET-1, RFC 5737
	if err != nil || len(routes) == 0 {
		return "", 0, fmt.Errorf("find the default route: %w", err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", 0, err
	}
	return link.Attrs().Name, link.Attrs().MTU, nil
}
