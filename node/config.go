package node

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/minid/minid/fault"
)

// DefaultPort is the control port.
const DefaultPort = 2377

// The UDP ports that overlays may use, as in Swarm; IANA gave VXLAN the default.
const (
	DefaultDataPathPort                 = 4789
	leastDataPathPort, mostDataPathPort = 1024, 49151
)

// Config is what minid's flags say.
type Config struct {
	DataDir       string
	RunDir        string
	ListenAddr    string
	AdvertiseAddr string
	// DataPathAddr is where the overlays' traffic goes; empty is the advertised address.
	DataPathAddr string
	// DataPathPort is the overlays' UDP port in a cluster that this node makes.
	DataPathPort uint16
	Name         string
	Labels       []string
	// GenericResources are KIND=N or KIND=ID,ID.
	GenericResources  []string
	ContainerdAddress string
	RegistryConfig    string
	MetricsAddr       string

	Version string
	Logger  *slog.Logger
}

// Defaults returns the configuration of a minid without flags.
func Defaults() Config {
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	return Config{
		DataDir:        "/var/lib/minid",
		RunDir:         "/run/minid",
		ListenAddr:     fmt.Sprintf("0.0.0.0:%d", DefaultPort),
		DataPathPort:   DefaultDataPathPort,
		Name:           name,
		RegistryConfig: "/etc/minid/registries",
		Logger:         slog.New(slog.DiscardHandler),
	}
}

// Validate refuses what cannot work, before anything is started.
func (c Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.ListenAddr); err != nil {
		return fmt.Errorf("invalid --listen-addr %q: %w: use HOST:PORT", c.ListenAddr, err)
	}
	if c.MetricsAddr != "" {
		if _, _, err := net.SplitHostPort(c.MetricsAddr); err != nil {
			return fmt.Errorf("invalid --metrics-addr %q: %w: use HOST:PORT", c.MetricsAddr, err)
		}
	}
	if c.DataPathPort < leastDataPathPort || c.DataPathPort > mostDataPathPort {
		return fmt.Errorf("invalid --data-path-port %d: use one from %d to %d", c.DataPathPort, leastDataPathPort, mostDataPathPort)
	}
	for _, label := range c.Labels {
		if key, _, ok := strings.Cut(label, "="); !ok || key == "" {
			return fmt.Errorf("invalid --label %q: use key=value", label)
		}
	}
	if _, err := c.GenericList(); err != nil {
		return err
	}
	if c.Name == "" {
		return fmt.Errorf("invalid --name: a node needs a name")
	}
	// A unix socket's path has at most 107 bytes; the longest one below the run
	// directory is containerd's ttrpc socket.
	if n := len(filepath.Join(c.RunDir, "containerd", "containerd.sock.ttrpc")); n > 107 {
		return fmt.Errorf("invalid --run-dir %q: sockets below it would have paths of %d bytes, more than the 107 that the kernel allows: use a shorter one", c.RunDir, n)
	}
	return nil
}

// SocketPath is where the control socket is.
func (c Config) SocketPath() string { return filepath.Join(c.RunDir, "minid.sock") }

// LabelMap is Labels by key.
func (c Config) LabelMap() map[string]string {
	labels := map[string]string{}
	for _, label := range c.Labels {
		key, value, _ := strings.Cut(label, "=")
		labels[key] = value
	}
	return labels
}

// withPort adds the default control port to an address that has none.
func withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), strconv.Itoa(DefaultPort))
}

// listenPort is the port of a listen address, the default one if it has none.
func listenPort(listen string) string {
	if _, port, err := net.SplitHostPort(listen); err == nil && port != "" {
		return port
	}
	return strconv.Itoa(DefaultPort)
}

// advertised resolves what peers dial: an address or interface, with or without
// a port. Empty takes the listen address if it names one host, else the
// address of the default route.
func advertised(addr, listen string) (string, error) {
	host, port := addr, listenPort(listen)
	if h, p, err := net.SplitHostPort(addr); err == nil {
		host, port = h, p
	}
	if host == "" {
		h, _, _ := net.SplitHostPort(listen)
		if ip := net.ParseIP(h); ip != nil && !ip.IsUnspecified() {
			host = h
		}
	}
	if host == "" {
		ip, err := routeAddr()
		if err != nil {
			return "", err
		}
		return net.JoinHostPort(ip, port), nil
	}
	if net.ParseIP(host) != nil {
		return net.JoinHostPort(host, port), nil
	}
	ip, err := interfaceAddr(host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(ip, port), nil
}

// dataPath resolves where the overlays' traffic goes: an address or interface,
// empty for the advertised one.
func dataPath(addr, advertise, listen string) (string, error) {
	if addr == "" {
		peer, err := advertised(advertise, listen)
		if err != nil {
			return "", err
		}
		host, _, err := net.SplitHostPort(peer)
		return host, err
	}
	if net.ParseIP(addr) != nil {
		return addr, nil
	}
	return interfaceAddr(addr)
}

// routeAddr finds the address that the default route leaves from; no packet is sent.
func routeAddr() (string, error) {
	conn, err := net.Dial("udp4", "192.0.2.1:9") // TEST-NET-1, RFC 5737
	if err != nil {
		return "", fault.New(fault.Invalid, "cannot choose an address to advertise: this host has no default route: %w", err).
			WithTry("give one with --advertise-addr")
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

func interfaceAddr(name string) (string, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return "", fault.New(fault.Invalid, "cannot use %q as an address: it is neither an IP address nor an interface of this host", name).
			WithTry("list the interfaces with: ip address")
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return "", fmt.Errorf("read addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", fault.New(fault.Invalid, "cannot use interface %s as an address: it has no IPv4 address", name)
}
