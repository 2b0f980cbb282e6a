// Package wireguard encrypts what nodes send each other: the device mnwg0, with
// one peer for every other node. The kernel makes the device where it can, else
// this process does it over TUN.
//
// What the device should be is a value, Wanted; Device.Set makes it so and
// changes only what differs, so that sessions outlive the rotation of keys.
package wireguard

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

const (
	// LinkName of the device.
	LinkName = "mnwg0"
	// RouteProtocol marks the routes of this package, in the main table. The mesh
	// has another: each removes what it does not want.
	RouteProtocol = 110
)

// Peer is another node.
type Peer struct {
	// PublicKey is the node's own; PresharedKey the cluster's newest.
	PublicKey, PresharedKey [32]byte
	// Endpoint takes the node's encrypted packets.
	Endpoint netip.AddrPort
	// Address of the node behind the encryption.
	Address netip.Addr
}

// Wanted is the device as it should be.
type Wanted struct {
	// Port is the UDP port for encrypted packets.
	Port uint16
	// Address of this node behind the encryption.
	Address netip.Addr
	// MTU of the device, in bytes.
	MTU int
	// Peers in any order, each public key once.
	Peers []Peer
}

func (w Wanted) sorted() []Peer {
	return slices.SortedFunc(slices.Values(w.Peers), func(a, b Peer) int {
		return slices.Compare(a.PublicKey[:], b.PublicKey[:])
	})
}

func (w Wanted) byKey() map[wgtypes.Key]Peer {
	out := make(map[wgtypes.Key]Peer, len(w.Peers))
	for _, p := range w.Peers {
		out[p.PublicKey] = p
	}
	return out
}

// single is the prefix with one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Render writes the wanted state as text, and of secret keys only by what one is
// told from another.
func (w Wanted) Render() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# link %s mtu %d, address %s, port %d\n", LinkName, w.MTU, single(w.Address), w.Port)
	w.renderPeers(&b)
	for _, r := range w.routes() {
		b.WriteString("# " + r.String() + "\n")
	}
	return b.String()
}

func (w Wanted) renderPeers(b *strings.Builder) {
	for _, p := range w.sorted() {
		sum := sha256.Sum256(p.PresharedKey[:])
		fmt.Fprintf(b, "# peer %s at %s, shared key %x\n", base64.StdEncoding.EncodeToString(p.PublicKey[:]), p.Endpoint, sum[:4])
	}
}

// route to a peer: by the device or, where that is missing, nowhere. Without
// the latter packets could leave in clear by the default route.
type route struct {
	to          netip.Prefix
	unreachable bool
}

// lastResort is the priority of routes that every other one comes before.
const lastResort = 1 << 30

func (r route) String() string {
	if r.unreachable {
		return fmt.Sprintf("route unreachable %s metric %d", r.to, lastResort)
	}
	return fmt.Sprintf("route %s by %s", r.to, LinkName)
}

func (w Wanted) routes() []route {
	out := make([]route, 0, 2*len(w.Peers))
	for _, p := range w.sorted() {
		out = append(out, route{to: single(p.Address)}, route{to: single(p.Address), unreachable: true})
	}
	return out
}

// change is what makes a device with one set of peers have another. Peers that
// stay as they are do not occur in it.
func change(have, want map[wgtypes.Key]Peer) []wgtypes.PeerConfig {
	var out []wgtypes.PeerConfig
	for _, key := range sortedKeys(have) {
		if _, ok := want[key]; !ok {
			out = append(out, wgtypes.PeerConfig{PublicKey: key, Remove: true})
		}
	}
	for _, key := range sortedKeys(want) {
		before, known := have[key]
		if now := want[key]; !known || before != now {
			out = append(out, changePeer(before, now, known))
		}
	}
	return out
}

func changePeer(before, now Peer, known bool) wgtypes.PeerConfig {
	c := wgtypes.PeerConfig{PublicKey: now.PublicKey, UpdateOnly: known}
	if before.PresharedKey != now.PresharedKey {
		shared := wgtypes.Key(now.PresharedKey)
		c.PresharedKey = &shared
	}
	if before.Endpoint != now.Endpoint {
		c.Endpoint = net.UDPAddrFromAddrPort(now.Endpoint)
	}
	if before.Address != now.Address {
		c.ReplaceAllowedIPs = true
		c.AllowedIPs = []net.IPNet{ipNet(single(now.Address))}
	}
	return c
}

func sortedKeys(m map[wgtypes.Key]Peer) []wgtypes.Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b wgtypes.Key) int { return slices.Compare(a[:], b[:]) })
}

// uapi writes a configuration as wireguard-go reads it.
func uapi(c wgtypes.Config) string {
	var b strings.Builder
	if c.PrivateKey != nil {
		fmt.Fprintf(&b, "private_key=%s\n", hex.EncodeToString(c.PrivateKey[:]))
	}
	if c.ListenPort != nil {
		fmt.Fprintf(&b, "listen_port=%d\n", *c.ListenPort)
	}
	for _, p := range c.Peers {
		fmt.Fprintf(&b, "public_key=%s\n", hex.EncodeToString(p.PublicKey[:]))
		if p.Remove {
			b.WriteString("remove=true\n")
			continue
		}
		if p.UpdateOnly {
			b.WriteString("update_only=true\n")
		}
		if p.PresharedKey != nil {
			fmt.Fprintf(&b, "preshared_key=%s\n", hex.EncodeToString(p.PresharedKey[:]))
		}
		if p.Endpoint != nil {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint.AddrPort())
		}
		if p.PersistentKeepaliveInterval != nil {
			fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", int(p.PersistentKeepaliveInterval.Seconds()))
		}
		if p.ReplaceAllowedIPs {
			b.WriteString("replace_allowed_ips=true\n")
		}
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(&b, "allowed_ip=%s\n", a.String())
		}
	}
	return b.String()
}
