// Package gate counts the connections that come to a task, and keeps new ones out
// without a word.
//
// A task that stops closes its listeners, and its kernel refuses from then on.
// To a client that is a failure, although another task would have served it: the
// client's node just had not heard yet. Silence makes the client repeat itself a
// second later, and conntrack has forgotten by then where it led the first try
// (see packages vip and mesh): the second one goes where the nodes know better.
// Connections that are open are not touched, nor those within the task.
package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/nft"
)

// TableName of the nftables table, family inet.
const TableName = "minid_gate"

const chainName = "arrivals"

// Gate is that of one task's namespace.
type Gate struct {
	conn *nftables.Conn
}

// Open begins to count, in the namespace at path.
func Open(path string) (*Gate, error) {
	c, err := nft.Connect(path)
	if err != nil {
		return nil, fmt.Errorf("open gate: %w", err)
	}
	g := &Gate{c}
	if err := g.load(&expr.Counter{}); err != nil {
		_ = c.CloseLasting()
		return nil, err
	}
	return g, nil
}

// Close ends the counting; new connections come in as before.
func (g *Gate) Close() error {
	g.conn.DelTable(table())
	if err := errors.Join(g.conn.Flush(), g.conn.CloseLasting()); err != nil {
		return fmt.Errorf("remove gate: %w", err)
	}
	return nil
}

// Count is how many attempts to connect there were since Open.
func (g *Gate) Count() (uint64, error) {
	rules, err := g.conn.GetRules(table(), &nftables.Chain{Table: table(), Name: chainName})
	if err != nil {
		return 0, fmt.Errorf("count arrivals: %w", err)
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, ok := e.(*expr.Counter); ok {
				return c.Packets, nil
			}
		}
	}
	return 0, errors.New("count arrivals: someone removed the counter")
}

// Shut drops what opens a TCP connection to the namespace at path. It lasts as
// long as the namespace.
func Shut(path string) error {
	c, err := nft.Connect(path)
	if err != nil {
		return fmt.Errorf("shut gate: %w", err)
	}
	g := &Gate{c}
	return errors.Join(g.load(&expr.Verdict{Kind: expr.VerdictDrop}), c.CloseLasting())
}

// load makes the table anew. Its hook is the first that a packet meets: conntrack
// does not hear of what is dropped.
func (g *Gate) load(last expr.Any) error {
	t := g.conn.AddTable(table())
	g.conn.DelTable(t) // adding first makes deleting succeed where there was none
	g.conn.AddTable(t)
	c := g.conn.AddChain(&nftables.Chain{
		Table: t, Name: chainName, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	g.conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: append(opens(), last)})
	if err := g.conn.Flush(); err != nil {
		return fmt.Errorf("load table %s: %w", TableName, err)
	}
	return nil
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
}

// opens matches what comes from outside and has, of the flags FIN, SYN, RST and
// ACK, only SYN:
//
//	iifname != "lo" tcp flags syn / fin,syn,rst,ack
func opens() []expr.Any {
	lo := make([]byte, unix.IFNAMSIZ)
	copy(lo, "lo")
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: lo},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
	}
}

// Queued is how many connections wait in the namespace at path for a process to
// take them. They fail if it closes its listener first.
func Queued(path string) (n int, err error) {
	err = netns.Do(path, func() error {
		for _, family := range []string{"tcp", "tcp6"} {
			f, err := os.Open("/proc/thread-self/net/" + family)
			if errors.Is(err, os.ErrNotExist) {
				continue // a kernel without IPv6
			}
			if err != nil {
				return err
			}
			waiting, err := queued(f)
			_ = f.Close()
			if err != nil {
				return err
			}
			n += waiting
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for connections that wait: %w", err)
	}
	return n, nil
}

// listening is the state of listeners in the kernel's list of sockets.
const listening = "0A"

// queued adds up the queues of listeners. These are listed before the
// connections, which may be many.
func queued(list io.Reader) (n int, err error) {
	lines := bufio.NewScanner(list)
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 || fields[3] != listening {
			break
		}
		_, received, _ := strings.Cut(fields[4], ":")
		waiting, err := strconv.ParseUint(received, 16, 32)
		if err != nil {
			return 0, err
		}
		n += int(waiting)
	}
	return n, lines.Err()
}
