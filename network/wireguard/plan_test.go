package wireguard

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/overlay"
)

func peer(number byte) Peer {
	return Peer{
		PublicKey: [32]byte{number}, PresharedKey: [32]byte{0xaa, number},
		Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, number}), 51820),
		Address:  netip.AddrFrom4([4]byte{10, 0, number * 4, number}),
	}
}

func wanted(peers ...Peer) Wanted {
	return Wanted{Port: 51820, Address: netip.MustParseAddr("10.0.4.1"), MTU: 1440, Peers: peers}
}

const golden = `# link mnwg0 mtu 1440, address 10.0.4.1/32, port 51820
# peer AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= at 192.0.2.2:51820, shared key 35914f5a
# peer AwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= at 192.0.2.3:51820, shared key 35b534f3
# route 10.0.8.2/32 by mnwg0
# route unreachable 10.0.8.2/32 metric 1073741824
# route 10.0.12.3/32 by mnwg0
# route unreachable 10.0.12.3/32 metric 1073741824
`

func TestRender(t *testing.T) {
	if diff := cmp.Diff(golden, wanted(peer(3), peer(2)).Render()); diff != "" {
		t.Error(diff)
	}
	alone := "# link mnwg0 mtu 1440, address 10.0.4.1/32, port 51820\n"
	if diff := cmp.Diff(alone, wanted().Render()); diff != "" {
		t.Error(diff)
	}
}

func TestOverlayKnowsTheDevice(t *testing.T) {
	if overlay.SecureLink != LinkName {
		t.Errorf("%s lets VXLAN through %s", LinkName, overlay.SecureLink)
	}
}

func TestUAPI(t *testing.T) {
	zeros := strings.Repeat("00", 30)
	rotated, moved := peer(2), peer(3)
	rotated.PresharedKey = [32]byte{0xbb}
	moved.Endpoint = netip.MustParseAddrPort("[2001:db8::3]:7")
	moved.Address = netip.MustParseAddr("10.0.99.9")
	for name, test := range map[string]struct {
		have, want []Peer
		text       string
	}{
		"nothing": {},
		"same":    {have: []Peer{peer(2)}, want: []Peer{peer(2)}},
		"new": {want: []Peer{peer(2)}, text: "public_key=0200" + zeros + "\npreshared_key=aa02" + zeros +
			"\nendpoint=192.0.2.2:51820\nreplace_allowed_ips=true\nallowed_ip=10.0.8.2/32\n"},
		"gone":    {have: []Peer{peer(2)}, text: "public_key=0200" + zeros + "\nremove=true\n"},
		"rotated": {have: []Peer{peer(2), peer(3)}, want: []Peer{rotated, peer(3)}, text: "public_key=0200" + zeros + "\nupdate_only=true\npreshared_key=bb00" + zeros + "\n"},
		"moved": {have: []Peer{peer(3)}, want: []Peer{moved}, text: "public_key=0300" + zeros +
			"\nupdate_only=true\nendpoint=[2001:db8::3]:7\nreplace_allowed_ips=true\nallowed_ip=10.0.99.9/32\n"},
	} {
		got := uapi(wgtypes.Config{Peers: change(wanted(test.have...).byKey(), wanted(test.want...).byKey())})
		if diff := cmp.Diff(test.text, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestUAPIOfNewDevice(t *testing.T) {
	port, key := 51820, wgtypes.Key{0xcc}
	c := wgtypes.Config{PrivateKey: &key, ListenPort: &port, Peers: []wgtypes.PeerConfig{{PublicKey: wgtypes.Key{2}}}}
	greet(c.Peers)
	zeros := strings.Repeat("00", 31)
	want := "private_key=cc" + zeros + "\nlisten_port=51820\npublic_key=02" + zeros + "\npersistent_keepalive_interval=60\n"
	if diff := cmp.Diff(want, uapi(c)); diff != "" {
		t.Error(diff)
	}
}

// TestChangeLeadsToWanted plays changes as a device would.
func TestChangeLeadsToWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := map[wgtypes.Key]Peer{}
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			want := map[wgtypes.Key]Peer{}
			for number := range byte(4) {
				if rapid.Bool().Draw(t, "there") {
					p := peer(number + 1)
					p.PresharedKey[5] = rapid.ByteRange(0, 1).Draw(t, "shared")
					p.Endpoint = netip.AddrPortFrom(p.Endpoint.Addr(), rapid.Uint16Range(1, 2).Draw(t, "port"))
					p.Address = netip.AddrFrom4([4]byte{10, 0, rapid.ByteRange(0, 1).Draw(t, "net"), number})
					want[p.PublicKey] = p
				}
			}
			for _, c := range change(have, want) {
				play(t, have, c)
			}
			if !maps.Equal(have, want) {
				t.Fatalf("have %v, want %v", have, want)
			}
		}
	})
}

func play(t *rapid.T, have map[wgtypes.Key]Peer, c wgtypes.PeerConfig) {
	before, known := have[c.PublicKey]
	if known != (c.UpdateOnly || c.Remove) {
		t.Fatalf("change of a peer that is known (%t) says update %t, remove %t", known, c.UpdateOnly, c.Remove)
	}
	if c.Remove {
		delete(have, c.PublicKey)
		return
	}
	now := peerOf(wgtypes.Peer{PublicKey: c.PublicKey, Endpoint: c.Endpoint, AllowedIPs: c.AllowedIPs})
	if c.PresharedKey != nil {
		now.PresharedKey = *c.PresharedKey
	} else {
		now.PresharedKey = before.PresharedKey
	}
	if c.Endpoint == nil {
		now.Endpoint = before.Endpoint
	}
	if !c.ReplaceAllowedIPs {
		now.Address = before.Address
	}
	have[c.PublicKey] = now
}

func TestKeyOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	first, err := loadKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadKey(dir)
	if err != nil || again != first {
		t.Errorf("the key is another after a restart: %v", err)
	}
	name := filepath.Join(dir, keyFile)
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(name + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.WriteFile(name, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKey(dir); !fault.Is(err, fault.State) || !strings.Contains(err.Error(), name) {
		t.Errorf("damaged key: %v", err)
	}
}
