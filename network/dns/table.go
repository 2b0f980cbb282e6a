package dns

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/nft"
)

const (
	// TableName of the nftables table in each task's namespace, family ip.
	TableName = "minid_dns"
	chainName = "output"
	// port is where tasks ask. It stays free for a name server of the task's own.
	port = 53
)

// wanted are the ports that port 53 of Address leads to.
type wanted struct{ UDP, TCP uint16 }

type rule struct {
	text  string
	exprs []expr.Any
}

// rules of the table's only chain.
func (w wanted) rules() []rule {
	return []rule{translation("udp", unix.IPPROTO_UDP, w.UDP), translation("tcp", unix.IPPROTO_TCP, w.TCP)}
}

func translation(protocol string, number byte, to uint16) rule {
	addr := Address.AsSlice()
	return rule{
		text: fmt.Sprintf("ip daddr %s %s dport %d dnat to %s", Address, protocol, port, netip.AddrPortFrom(Address, to)),
		exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
			&expr.Immediate{Register: 1, Data: addr},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(to)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
		},
	}
}

// Render writes the table as nft lists it.
func (w wanted) Render() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table ip %s {\n\tchain %s {\n\t\ttype nat hook output priority -100; policy accept;\n", TableName, chainName)
	for _, r := range w.rules() {
		fmt.Fprintf(&b, "\t\t%s\n", r.text)
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: TableName}
}

func chain() *nftables.Chain {
	return &nftables.Chain{
		Table: table(), Name: chainName, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	}
}

// set makes the table of a namespace as wanted, in one transaction, and leaves
// one alone that is so already.
func (w wanted) set(path string) error {
	c, err := nft.Connect(path)
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	if w.intact(c) {
		return nil
	}
	t := c.AddTable(table())
	if _, err := c.ListTableOfFamily(TableName, nftables.TableFamilyIPv4); err == nil {
		// Adding first makes deleting succeed if it is gone by now. A new task
		// has none, and is spared the 10 ms that deleting takes.
		c.DelTable(t)
		c.AddTable(t)
	}
	ch := c.AddChain(chain())
	for _, r := range w.rules() {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: r.exprs})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("load table %s: %w", TableName, err)
	}
	return forgetFlows(path)
}

// check tells whether a namespace has the table as wanted.
func (w wanted) check(path string) (bool, error) {
	c, err := nft.Connect(path)
	if err != nil {
		return false, err
	}
	defer c.CloseLasting()
	return w.intact(c), nil
}

func (w wanted) intact(c *nftables.Conn) bool {
	have, err := c.ListChain(table(), chainName)
	if err != nil || have.Hooknum == nil || have.Priority == nil || have.Type != nftables.ChainTypeNAT ||
		*have.Hooknum != *nftables.ChainHookOutput || *have.Priority != *nftables.ChainPriorityNATDest {
		return false
	}
	rules, err := c.GetRules(table(), chain())
	if err != nil || len(rules) != len(w.rules()) {
		return false
	}
	for i, r := range w.rules() {
		if !bytes.Equal(constants(rules[i].Exprs), constants(r.exprs)) {
			return false
		}
	}
	return true
}

// constants are what a rule compares with and translates to. The kernel tells the
// rest of a rule with defaults filled in, which depend on its version.
func constants(exprs []expr.Any) (out []byte) {
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Cmp:
			out = append(out, e.Data...)
		case *expr.Immediate:
			out = append(out, e.Data...)
		}
	}
	return out
}

// forgetFlows deletes what conntrack remembers of questions: a client that keeps
// its socket would go on to reach the port of an earlier table, or none.
func forgetFlows(path string) error {
	// Looking through what all namespaces remember takes milliseconds, and a
	// new task's remembers nothing.
	if n, err := countFlows(path); err == nil && n == 0 {
		return nil
	}
	h, err := netns.Handle(path, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	_, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, questions{})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget flows to the name server: %w", err)
	}
	return nil
}

// countFlows is how many connections conntrack knows in a namespace.
func countFlows(path string) (n int, err error) {
	err = netns.Do(path, func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	return n, err
}

// questions matches what was sent to the name server over UDP.
type questions struct{}

func (questions) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	to, ok := netip.AddrFromSlice(f.Forward.DstIP)
	return ok && to.Unmap() == Address && f.Forward.Protocol == unix.IPPROTO_UDP && f.Forward.DstPort == port
}
