package wireguard

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/netns"
)

// Config of a Device.
type Config struct {
	// DataDir keeps the private key.
	DataDir string
	Logger  *slog.Logger
}

// Device is the node's encrypting device. Calls must not overlap.
type Device struct {
	cfg     Config
	private wgtypes.Key
	public  wgtypes.Key
	host    *rtnl.Handle

	wanted *Wanted
	driver driver // nil: no device
	link   int    // the device's index
	port   uint16
	peers  map[wgtypes.Key]Peer // as the device has them
	made   bool                 // the device is new and has not finished its first Set
}

// driver does the encryption behind the link.
type driver interface {
	configure(wgtypes.Config) error
	// read returns what the device has, as far as it can tell better than who
	// configured it.
	read() (port uint16, peers map[wgtypes.Key]Peer, known bool, err error)
	alive() bool
	close() error
}

// Open reads the key pair, or makes it. It makes no device yet.
func Open(cfg Config) (*Device, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	key, err := loadKey(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	host, err := netns.Handle("")
	if err != nil {
		return nil, err
	}
	return &Device{cfg: cfg, private: key, public: key.PublicKey(), host: host}, nil
}

// PublicKey of this node.
func (d *Device) PublicKey() []byte { return d.public[:] }

// Userspace reports whether this process does the encryption, for want of a
// kernel that does. It is known when there is a device.
func (d *Device) Userspace() bool {
	_, ok := d.driver.(*userspace)
	return ok
}

// Set makes the device as wanted; nil removes it. Only what differs is changed.
func (d *Device) Set(w *Wanted) error {
	d.wanted = w
	if w == nil {
		return d.remove()
	}
	if err := d.ensure(w.MTU); err != nil {
		return err
	}
	if err := d.configure(*w); err != nil {
		return err
	}
	if err := d.setLink(*w); err != nil {
		return err
	}
	if err := d.setRoutes(*w); err != nil {
		return err
	}
	return d.hush()
}

// hush ends the keepalives that a new device begins with. The first of them
// makes the peers know it: with the session of the one before they would talk to
// nobody for 15 seconds.
func (d *Device) hush() error {
	if !d.made {
		return nil
	}
	var c wgtypes.Config
	for _, key := range sortedKeys(d.peers) {
		never := time.Duration(0)
		c.Peers = append(c.Peers, wgtypes.PeerConfig{PublicKey: key, UpdateOnly: true, PersistentKeepaliveInterval: &never})
	}
	if err := d.driver.configure(c); err != nil {
		return fmt.Errorf("configure %s: %w", LinkName, err)
	}
	d.made = false
	return nil
}

// firstKeepalive only has to be other than zero, and longer than Set takes.
const firstKeepalive = time.Minute

func greet(peers []wgtypes.PeerConfig) {
	for i := range peers {
		every := firstKeepalive
		peers[i].PersistentKeepaliveInterval = &every
	}
}

// ensure makes the device where it is missing or dead.
func (d *Device) ensure(mtu int) error {
	link, err := d.find()
	if err != nil {
		return err
	}
	if d.driver != nil && (link == nil || link.Attrs().Index != d.link || !d.driver.alive()) {
		err := d.driver.close()
		if d.driver = nil; err != nil {
			return fmt.Errorf("close encrypting device: %w", err)
		}
		if link, err = d.find(); err != nil {
			return err
		}
	}
	if d.driver != nil {
		return nil
	}
	d.port, d.peers = 0, nil
	if d.driver, err = d.open(link, mtu); err != nil {
		return err
	}
	if link, err = d.host.LinkByName(LinkName); err != nil {
		return errors.Join(fmt.Errorf("find %s: %w", LinkName, err), d.remove())
	}
	d.link = link.Attrs().Index
	return nil
}

// find returns the link, or nil.
func (d *Device) find() (rtnl.Link, error) {
	link, err := d.host.LinkByName(LinkName)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", LinkName, err)
	}
	return link, nil
}

func isGone(err error) bool {
	return errors.As(err, &rtnl.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV)
}

// open takes over the kernel's device that an earlier minid left, whose sessions
// go on, or makes one.
func (d *Device) open(link rtnl.Link, mtu int) (driver, error) {
	if link != nil && link.Type() != "wireguard" {
		if err := d.host.LinkDel(link); err != nil && !isGone(err) {
			return nil, fmt.Errorf("remove link %s: %w", LinkName, err)
		}
		link = nil
	}
	if d.made = link == nil; d.made {
		err := d.host.LinkAdd(&rtnl.Wireguard{LinkAttrs: rtnl.LinkAttrs{Name: LinkName, MTU: mtu}})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return openUserspace(mtu, d.cfg.Logger)
		}
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", LinkName, err)
		}
	}
	return openKernel()
}

// configure changes keys, port and peers to what is wanted.
func (d *Device) configure(w Wanted) error {
	port, peers, known, err := d.driver.read()
	if err != nil {
		return err
	}
	if known {
		d.port, d.peers = port, peers
	}
	want := w.byKey()
	var c wgtypes.Config
	if d.peers == nil || known {
		c.PrivateKey = &d.private // the same one again changes nothing
	}
	if d.port != w.Port {
		number := int(w.Port)
		c.ListenPort = &number
	}
	c.Peers = change(d.peers, want)
	if d.made {
		greet(c.Peers)
	}
	if c.PrivateKey == nil && c.ListenPort == nil && len(c.Peers) == 0 {
		return nil
	}
	if err := d.driver.configure(c); err != nil {
		return failed("configure", w, err)
	}
	d.port, d.peers = w.Port, want
	return nil
}

// failed says what an error means: which step finds the port taken depends on
// the driver.
func failed(step string, w Wanted, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fault.New(fault.InUse, "encrypt traffic: another program on this node uses UDP port %d", w.Port).
			WithTry("ss -ulpn 'sport = %d'", w.Port)
	}
	return fmt.Errorf("%s %s: %w", step, LinkName, err)
}

// remove deletes the device and its routes.
func (d *Device) remove() error {
	var errs []error
	if d.driver != nil {
		errs = append(errs, d.driver.close())
	}
	d.driver, d.peers, d.port, d.link = nil, nil, 0, 0
	link, err := d.find()
	if link != nil {
		err = d.host.LinkDel(link)
	}
	if err != nil && !isGone(err) {
		errs = append(errs, fmt.Errorf("remove link %s: %w", LinkName, err))
	}
	return errors.Join(append(errs, d.setRoutes(Wanted{}))...)
}

// Check reports whether the device still is as the last Set left it.
func (d *Device) Check() (bool, error) {
	link, err := d.find()
	if err != nil {
		return false, err
	}
	if d.wanted == nil {
		return link == nil, nil
	}
	if link == nil || d.driver == nil || link.Attrs().Index != d.link || !d.driver.alive() {
		return false, nil
	}
	port, peers, known, err := d.driver.read()
	if err != nil {
		return false, err
	}
	if !known {
		port, peers = d.port, d.peers
	}
	if port != d.wanted.Port || !maps.EqualFunc(peers, d.wanted.byKey(), samePeer) {
		return false, nil
	}
	if ok, err := d.linkIntact(link, *d.wanted); !ok || err != nil {
		return false, err
	}
	return d.routesIntact(*d.wanted)
}

// samePeer compares peers but for the endpoint: a device takes it from the last
// good packet, and behind an address translation that is right.
func samePeer(a, b Peer) bool {
	a.Endpoint = b.Endpoint
	return a == b
}

// Close ends the device where this process makes it; the kernel's one and the
// routes stay for the next minid.
func (d *Device) Close() error {
	var err error
	if d.driver != nil {
		err = d.driver.close()
	}
	d.driver, d.peers, d.port = nil, nil, 0
	d.host.Close()
	return err
}
