// Package dns is the name server of all tasks of a node, at 127.0.0.11 in each
// task's namespace.
//
// What a name means is decided by pure functions: zone.go keeps the names of
// each network, answer.go finds what a task asked for among the networks that it
// is on, message.go makes a whole reply. Around these, listen.go has the sockets,
// table.go the translation of port 53 to them, and forward.go asks the host's
// name servers for what is not the cluster's.
//
// These names are known, on each network that the asking task is on, in the order
// of its networks; the first network that knows a name answers:
//
//	SERVICE             its virtual address; without one, its serving tasks
//	ALIAS               as the service; services that share an alias add up
//	tasks.SERVICE       serving tasks (also tasks.ALIAS)
//	SERVICE.SLOT        the task of a slot: serving, or else any that is there
//	SERVICE.NODE        the task of a global service on a node
//	SERVICE.SLOT.TASK   a task's own name (SERVICE.NODE.TASK of global services)
//	TASK                a task's id, or the 12 characters that are its host name
//	_PORT._PROTO.SERVICE  SRV records of serving tasks; PORT is a name or number
//
// and each of them with .NETWORK behind it, for that network only. Addresses have
// PTR records of the form NAME.NETWORK. A name of the cluster's without what was
// asked for (AAAA on a network of IPv4) is an answer without records, and nothing
// that has the form of a cluster's name leaves the node: not tasks.NAME, not
// SERVICE.9 when there is no slot 9.
//
// Other names go to the host's name servers, or those that the service names, as
// they are: also names of a single label, as with Docker, unless the task's option
// ndots asks for search domains first. Tasks that are on internal networks only get
// NXDOMAIN for them.
package dns

import (
	"log/slog"
	"net/netip"
)

// TTL of the cluster's names in seconds: what changes is known to clients that
// keep answers after this.
const TTL = 5

// Address is where tasks find the name server, at port 53.
var Address = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// Task is one whose questions are answered.
type Task struct {
	ID string
	// Netns is the path of the task's network namespace.
	Netns string
	// Networks are the ids of the task's networks, in its order.
	Networks []string
	// Domains are the names of Networks, in the same order; empty if not known.
	Domains []string
	// Servers are asked instead of the host's, from the task's namespace.
	Servers []netip.AddrPort
	// Options of the task's resolv.conf; of these, ndots matters here.
	Options []string
	// Internal tasks get no answers from outside the cluster.
	Internal bool
}

// Service is a service on one network.
type Service struct {
	ID   string
	Name string
	// Aliases are more names on this network.
	Aliases []string
	// VIPs are the service's addresses; with none, its name leads to its tasks.
	VIPs []netip.Addr
	// Tasks that have not ended.
	Tasks []Endpoint
	Ports []Port
}

// Endpoint is a task of a service.
type Endpoint struct {
	ID string
	// Slot is 0 for global services.
	Slot uint64
	// Node is the name of the task's node.
	Node      string
	Addresses []netip.Addr
	// Serving tasks get new connections.
	Serving bool
}

// Port is one that a service listens on, for SRV records.
type Port struct {
	// Protocol is "tcp", "udp" or "sctp".
	Protocol string
	// Name is optional.
	Name   string
	Number uint16
}

// Config of a Server.
type Config struct {
	// Upstreams are the host's name servers, in the order to be asked; nil reads
	// /etc/resolv.conf.
	Upstreams func() []netip.AddrPort
	Logger    *slog.Logger
}
