package wireguard

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	rtnl "github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Dump writes the device as it is, in the form of Render. A device that is
// missing is no text.
func (d *Device) Dump() (string, error) {
	link, err := d.find()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if link != nil {
		if err := d.dumpLink(&b, link); err != nil {
			return "", err
		}
	}
	have, err := d.routesOf()
	if err != nil {
		return "", err
	}
	if d.wanted != nil {
		for _, r := range d.wanted.routes() {
			if _, ok := have[r]; ok {
				fmt.Fprintf(&b, "# %s\n", r)
				delete(have, r)
			}
		}
	}
	for _, r := range slices.SortedFunc(maps.Keys(have), func(a, b route) int { return strings.Compare(a.String(), b.String()) }) {
		fmt.Fprintf(&b, "# %s\n", r)
	}
	return b.String(), nil
}

func (d *Device) dumpLink(b *strings.Builder, link rtnl.Link) error {
	addrs, err := d.addresses(link)
	if err != nil {
		return err
	}
	port, peers, err := d.list()
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "# link %s mtu %d, address", LinkName, link.Attrs().MTU)
	for _, a := range addrs {
		fmt.Fprintf(b, " %s", a.IPNet)
	}
	fmt.Fprintf(b, ", port %d", port)
	if link.Attrs().Flags&net.FlagUp == 0 {
		b.WriteString(" (down)")
	}
	b.WriteByte('\n')
	Wanted{Peers: peers}.renderPeers(b)
	return nil
}

// list asks whoever does the encryption for the port and the peers.
func (d *Device) list() (uint16, []Peer, error) {
	if d.driver == nil {
		return 0, nil, nil
	}
	if u, ok := d.driver.(*userspace); ok {
		text, err := u.dev.IpcGet()
		if err != nil {
			return 0, nil, fmt.Errorf("read %s: %w", LinkName, err)
		}
		port, peers := parseUAPI(text)
		return port, peers, nil
	}
	port, peers, _, err := d.driver.read()
	return port, slices.Collect(maps.Values(peers)), err
}

// parseUAPI reads what wireguard-go tells of itself, but for its private key.
func parseUAPI(text string) (port uint16, peers []Peer) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "public_key" {
			key, _ := hex.DecodeString(value)
			p := Peer{}
			if len(key) == len(wgtypes.Key{}) {
				p.PublicKey = [32]byte(key)
			}
			peers = append(peers, p)
			continue
		}
		switch {
		case name == "listen_port":
			n, _ := strconv.ParseUint(value, 10, 16)
			port = uint16(n)
		case name == "preshared_key" && len(peers) > 0:
			_, _ = hex.Decode(peers[len(peers)-1].PresharedKey[:], []byte(value[:min(len(value), 2*len(wgtypes.Key{}))]))
		case name == "endpoint" && len(peers) > 0:
			peers[len(peers)-1].Endpoint, _ = netip.ParseAddrPort(value)
		case name == "allowed_ip" && len(peers) > 0:
			prefix, _ := netip.ParsePrefix(value)
			peers[len(peers)-1].Address = prefix.Addr()
		}
	}
	return port, peers
}
