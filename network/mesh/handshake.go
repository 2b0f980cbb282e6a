package mesh

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	handshake = "handshake"
	// handshakeTime is how long, in seconds, conntrack remembers where it led a
	// connection that nobody has answered: no longer than the client waits before
	// it repeats itself (RFC 6298: one second), so that every repetition is led
	// anew, by what is known by then. A task or a node that does not answer costs a
	// new connection that second, whether anybody knows of it or not.
	handshakeTime = 1
)

// hasten gives what the mesh or a host port leads somewhere that timeout.
func (b base) hasten() []rule {
	if b.patient {
		return nil
	}
	set := []expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCtTimeout), Name: handshake}}
	pool := b.pool.Masked()
	return []rule{
		line("oifname \""+LinkName+"\" ct timeout set \""+handshake+"\"", ifName(out, same), set),
		line("ip daddr "+pool.String()+" ct status dnat ct timeout set \""+handshake+"\"", inPrefix(destination, pool), isTranslated, set),
	}
}

// handshakeTimeout is the object that the rules name. The library would set its
// own defaults for the states that are not given: these get the host's.
func handshakeTimeout() *nftables.NamedObj {
	policy := expr.CtStatePolicyTimeout{
		expr.CtStateTCPSYNSENT: handshakeTime, expr.CtStateTCPESTABLISHED: 5 * 24 * 60 * 60, // the kernel's own
	}
	for state, name := range map[uint16]string{
		expr.CtStateTCPSYNRECV: "syn_recv", expr.CtStateTCPESTABLISHED: "established", expr.CtStateTCPFINWAIT: "fin_wait",
		expr.CtStateTCPCLOSEWAIT: "close_wait", expr.CtStateTCPLASTACK: "last_ack", expr.CtStateTCPTIMEWAIT: "time_wait",
		expr.CtStateTCPCLOSE: "close", expr.CtStateTCPRETRANS: "max_retrans", expr.CtStateTCPUNACK: "unacknowledged",
	} {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net/netfilter", "nf_conntrack_tcp_timeout_"+name))
		if err != nil {
			continue
		}
		if seconds, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); err == nil {
			policy[state] = uint32(seconds)
		}
	}
	return &nftables.NamedObj{
		Table: table(nftables.TableFamilyIPv4), Name: handshake, Type: nftables.ObjTypeCtTimeout,
		Obj: &expr.CtTimeout{L3Proto: unix.NFPROTO_IPV4, L4Proto: unix.IPPROTO_TCP, Policy: policy},
	}
}
