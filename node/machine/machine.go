// Package machine is the real Host of a node: containerd, a bridge, files and
// sockets, and systemd.
package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/agent/containerd"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/network"
	"github.com/minid/minid/node"
	pb "github.com/minid/minid/proto/minid/v1"
)

// socketGroup may use the control socket, if the host has such a group.
const socketGroup = "minid"

// openTime bounds the first talk with containerd.
const openTime = 30 * time.Second

// Run runs minid on this machine until ctx ends.
func Run(ctx context.Context, cfg node.Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	generic, err := cfg.GenericList()
	if err != nil {
		return err
	}
	m := &machine{cfg: cfg, log: cfg.Logger, generic: generic}
	if err := m.open(ctx); err != nil {
		return errors.Join(err, m.close())
	}
	n, err := node.New(cfg, m.host())
	if err != nil {
		return errors.Join(err, m.close())
	}
	return errors.Join(n.Run(ctx), m.close())
}

// machine is what a node on this host holds open.
type machine struct {
	cfg     node.Config
	log     *slog.Logger
	locks   []*os.File
	daemon  *containerd.Daemon
	images  *containerd.Images
	network *network.Engine
	// runtime is of the present membership, if there is one.
	runtime *containerd.Runtime
	release string
	generic []*pb.GenericResource
}

func (m *machine) open(ctx context.Context) error {
	for _, dir := range []string{m.cfg.DataDir, m.cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := m.lockDir(dir); err != nil {
			return err
		}
	}
	address := m.cfg.ContainerdAddress
	if address == "" {
		m.daemon = &containerd.Daemon{DataDir: m.cfg.DataDir, RunDir: m.cfg.RunDir, Logger: m.log.With("room", "containerd")}
		if err := m.daemon.Ensure(ctx); err != nil {
			return fmt.Errorf("start containerd: %w", err)
		}
		address = m.daemon.Address()
	} else if err := reach(address); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	var err error
	if m.images, err = containerd.OpenImages(ctx, address, m.cfg.RegistryConfig); err != nil {
		return fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	if m.release, err = m.images.Version(ctx); err != nil {
		return fmt.Errorf("ask containerd at %s for its version: %w", address, err)
	}
	m.network, err = network.Open(network.Config{
		DataDir: m.cfg.DataDir, RunDir: m.cfg.RunDir, Logger: m.log.With("room", "network"),
	})
	if err != nil {
		return fmt.Errorf("open network: %w", err)
	}
	return nil
}

// reach fails soon, and in words, where a containerd that is not ours is absent.
func reach(address string) error {
	conn, err := net.DialTimeout("unix", address, openTime)
	if err != nil {
		return fault.New(fault.Unavailable, "cannot reach containerd: %w", err).
			WithTry("systemctl start containerd, or leave --containerd-address out for a private one")
	}
	return conn.Close()
}

// lockDir keeps a second minid out of a directory. The kernel lets go of the
// lock when the process ends, however it ends.
func (m *machine) lockDir(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return fault.New(fault.State, "another minid uses the directory %s", dir).
			WithTry("give each minid a --data-dir and a --run-dir of its own")
	}
	m.locks = append(m.locks, f)
	return nil
}

func (m *machine) close() error {
	var errs []error
	if m.runtime != nil {
		errs = append(errs, m.runtime.Close())
	}
	if m.images != nil {
		errs = append(errs, m.images.Close())
	}
	for _, lock := range m.locks {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}

func (m *machine) host() node.Host {
	return node.Host{
		Listen:      func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) },
		ListenLocal: m.listenLocal,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
		Runtime:    m.openRuntime,
		Network:    m.network,
		Describe:   m.describe,
		Local:      &local{imageServer: imageServer{images: m.images}, network: m.network},
		Background: m.background,
		Notify:     m.notify,
	}
}

// notify tells systemd, if it started minid and wants to know.
func (m *machine) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Debug("cannot notify systemd", "err", err)
	}
}

// background keeps containerd running and the network in repair.
func (m *machine) background(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if m.daemon != nil {
		g.Go(func() error { return m.daemon.Run(ctx) })
	}
	g.Go(func() error { return m.network.Run(ctx) })
	return g.Wait()
}

// openRuntime opens the runtime of a membership; the last one's is done with.
func (m *machine) openRuntime(nodeID string) (node.Runtime, error) {
	if m.runtime != nil {
		if err := m.runtime.Close(); err != nil {
			m.log.Warn("cannot close the runtime that was open before", "err", err)
		}
		m.runtime = nil
	}
	address := m.cfg.ContainerdAddress
	if m.daemon != nil {
		address = m.daemon.Address()
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	r, err := containerd.Open(ctx, containerd.Config{
		Address: address, NodeID: nodeID,
		DataDir: m.cfg.DataDir, RunDir: m.cfg.RunDir, RegistryDir: m.cfg.RegistryConfig,
		Network: m.network, Images: m.images, Logger: m.log.With("room", "containerd"), Generic: m.generic,
	})
	if err != nil {
		return nil, err
	}
	m.runtime = r
	return r, nil
}

func (m *machine) describe(_ context.Context, dataPath string) *pb.NodeDescription {
	d := containerd.DescribeHost()
	d.Resources.Generic = m.generic
	d.Hostname = m.cfg.Name
	d.EngineLabels = m.cfg.LabelMap()
	d.EngineVersion = m.cfg.Version
	d.RuntimeVersion = "containerd " + m.release
	if err := m.network.Describe(d, dataPath); err != nil {
		m.log.Warn("the network of this host is not known", "err", err)
	}
	return d
}

// listenLocal opens the control socket for root and the group minid. One that is
// there was left by a minid that is dead: the run directory is locked.
func (m *machine) listenLocal() (net.Listener, error) {
	path := m.cfg.SocketPath()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old control socket: %w", err)
	}
	old := unix.Umask(0o117)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	if group, err := user.LookupGroup(socketGroup); err == nil {
		gid, _ := strconv.Atoi(group.Gid)
		if err := os.Chown(path, -1, gid); err != nil {
			m.log.Warn("cannot give the control socket to its group", "group", socketGroup, "err", err)
		}
	}
	return l, nil
}
