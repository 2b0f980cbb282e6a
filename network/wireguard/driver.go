package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/minid/minid/fault"
)

// userspace encrypts in this process; the device ends with it.
type userspace struct{ dev *wgdevice.Device }

func openUserspace(mtu int, log *slog.Logger) (driver, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "make %s: this kernel has neither WireGuard nor TUN: %v", LinkName, err).
			WithTry("modprobe wireguard")
	}
	if err := attach(fd, mtu); err != nil {
		return nil, errors.Join(fmt.Errorf("make %s over TUN: %w", LinkName, err), unix.Close(fd))
	}
	// The library is to watch nothing: whether the device is up is for Set to
	// say, at once and in its own namespace.
	link, _, err := tun.CreateUnmonitoredTUNFromFD(fd) // which owns fd now
	if err != nil {
		return nil, fmt.Errorf("make %s over TUN: %w", LinkName, err)
	}
	return &userspace{wgdevice.NewDevice(link, conn.NewDefaultBind(), logger(log))}, nil
}

// attach makes the link behind an open TUN.
func attach(fd, mtu int) error {
	request, err := unix.NewIfreq(LinkName)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return err
	}
	link, err := rtnl.LinkByName(LinkName)
	if err != nil {
		return err
	}
	return rtnl.LinkSetMTU(link, mtu)
}

// logger passes on what the library says: the details of every handshake are
// for those who look for them.
func logger(log *slog.Logger) *wgdevice.Logger {
	say := func(level slog.Level) func(string, ...any) {
		return func(format string, args ...any) {
			if log.Enabled(context.Background(), level) {
				log.Log(context.Background(), level, "encrypting device says", "text", fmt.Sprintf(format, args...))
			}
		}
	}
	return &wgdevice.Logger{Verbosef: say(slog.LevelDebug), Errorf: say(slog.LevelWarn)}
}

func (u *userspace) configure(c wgtypes.Config) error {
	if err := u.dev.IpcSet(uapi(c)); err != nil {
		return err
	}
	return u.dev.Up()
}

func (u *userspace) read() (uint16, map[wgtypes.Key]Peer, bool, error) { return 0, nil, false, nil }

func (u *userspace) alive() bool {
	select {
	case <-u.dev.Wait():
		return false
	default:
		return true
	}
}

func (u *userspace) close() error {
	u.dev.Close()
	return nil
}

// kernel encrypts in the kernel; the device stays when this process ends.
type kernel struct{ client *wgctrl.Client }

func openKernel() (driver, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("control WireGuard: %w", err)
	}
	return &kernel{client}, nil
}

func (k *kernel) configure(c wgtypes.Config) error { return k.client.ConfigureDevice(LinkName, c) }

func (k *kernel) read() (uint16, map[wgtypes.Key]Peer, bool, error) {
	dev, err := k.client.Device(LinkName)
	if err != nil {
		return 0, nil, false, fmt.Errorf("read %s: %w", LinkName, err)
	}
	peers := make(map[wgtypes.Key]Peer, len(dev.Peers))
	for _, p := range dev.Peers {
		peers[p.PublicKey] = peerOf(p)
	}
	return uint16(dev.ListenPort), peers, true, nil
}

// peerOf reads a peer; one that has several addresses or none is not as any
// could be wanted.
func peerOf(p wgtypes.Peer) Peer {
	out := Peer{PublicKey: p.PublicKey, PresharedKey: p.PresharedKey}
	if p.Endpoint != nil {
		at := p.Endpoint.AddrPort()
		out.Endpoint = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	if len(p.AllowedIPs) == 1 {
		addr, _ := netip.AddrFromSlice(p.AllowedIPs[0].IP)
		if ones, bits := p.AllowedIPs[0].Mask.Size(); ones == bits {
			out.Address = addr.Unmap()
		}
	}
	return out
}

func (k *kernel) alive() bool { return true }

func (k *kernel) close() error { return k.client.Close() }
