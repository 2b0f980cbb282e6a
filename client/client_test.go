package client

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

func TestHosts(t *testing.T) {
	for host, want := range map[string]target{
		DefaultHost:              {socket: "/run/minid/minid.sock"},
		"unix:///tmp/a b#%.sock": {socket: "/tmp/a b#%.sock"},
		"https://n1":             {addr: "n1:2377"},
		"https://n1:9":           {addr: "n1:9"},
		"https://10.0.0.1:2377/": {addr: "10.0.0.1:2377"},
		"https://[fd00::1]":      {addr: "[fd00::1]:2377"},
	} {
		if got, err := parseHost(host); err != nil || got != want {
			t.Errorf("%s is %+v, %v", host, got, err)
		}
	}
	for _, host := range []string{"", "n1:2377", "tcp://n1:2377", "http://n1", "unix://", "unix://relative/path", "https://", "https://n1/api", "://"} {
		if _, err := parseHost(host); !fault.Is(err, fault.Invalid) || fault.TryOf(err) == "" {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestTheEnvironmentNamesTheHost(t *testing.T) {
	t.Setenv(HostEnv, "")
	if Host() != DefaultHost {
		t.Errorf("host %s", Host())
	}
	t.Setenv(HostEnv, "unix:///nowhere")
	c, err := Dial("", Options{})
	if err != nil || c.Host != "unix:///nowhere" {
		t.Fatalf("client %v, %v", c, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestNoDaemonOnTheSocket(t *testing.T) {
	host := "unix://" + filepath.Join(t.TempDir(), "minid.sock")
	c, err := Dial(host, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Local.Info(t.Context(), &pb.InfoRequest{})
	want := "cannot reach minid at " + host + ": is it running? (no such file or directory)"
	if !fault.Is(err, fault.Unavailable) || err.Error() != want || !strings.Contains(fault.TryOf(err), "systemctl start minid") {
		t.Errorf("got %v, try %q", err, fault.TryOf(err))
	}
	denied := noDaemon(host, "permission denied")
	if denied.Class != fault.Denied || !strings.Contains(denied.Try, "sudo") {
		t.Errorf("got %v, try %q", denied, denied.Try)
	}
}

// node answers as a manager would.
type node struct {
	pb.UnimplementedControlServer
	pb.UnimplementedLocalServer
}

func (node) Info(context.Context, *pb.InfoRequest) (*pb.InfoResponse, error) {
	return &pb.InfoResponse{Name: "n1"}, nil
}

func (node) GetService(context.Context, *pb.GetRequest) (*pb.Service, error) {
	return nil, fault.New(fault.NotFound, "inspect service web: there is none").WithTry("minictl service ls")
}

// start runs loops until the test ends.
func start(t *testing.T, loops ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, loop := range loops {
		wg.Go(func() {
			if err := loop(ctx); err != nil {
				t.Errorf("loop: %v", err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// expectAnswers makes a call that fails and checks that its error arrives whole.
func expectAnswers(t *testing.T, c *Client) {
	t.Helper()
	_, err := c.Control.GetService(t.Context(), &pb.GetRequest{Ref: "web"})
	if !fault.Is(err, fault.NotFound) || err.Error() != "inspect service web: there is none" || fault.TryOf(err) != "minictl service ls" {
		t.Errorf("got %v, try %q", err, fault.TryOf(err))
	}
}

func TestOverTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a #% s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	self := rpc.Identity{NodeID: "n1", ClusterID: "c1", Role: pb.NodeRole_NODE_ROLE_MANAGER}
	server := rpc.NewLocalServer(rpc.ServerConfig{Self: func() rpc.Identity { return self }})
	pb.RegisterControlServer(server, node{})
	pb.RegisterLocalServer(server, node{})
	start(t, func(ctx context.Context) error { return server.Run(ctx, ln) })
	c, err := Dial("unix://"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if info, err := c.Local.Info(t.Context(), &pb.InfoRequest{}); err != nil || info.Name != "n1" {
		t.Errorf("info %v, %v", info, err)
	}
	expectAnswers(t, c)
}

// serveTLS serves a manager and writes its identity into a file.
func serveTLS(t *testing.T) (host, file string) {
	f, err := ca.Bootstrap(nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	k, err := ca.OpenKeystore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Store(f.Material); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := rpc.NewMux(ln, rpc.MuxConfig{TLS: k.ServerTLS(), Verify: k.Verify})
	server := rpc.NewServer(rpc.ServerConfig{Self: k.Self})
	pb.RegisterControlServer(server, node{})
	pb.RegisterLocalServer(server, node{})
	start(t, mux.Run, func(ctx context.Context) error { return server.Run(ctx, mux.GRPC()) })
	return "https://" + ln.Addr().String(), filepath.Join(dir, "node.pem")
}

func TestOverTLSWithANodesOwnFile(t *testing.T) {
	host, file := serveTLS(t)
	c, err := Dial(host, Options{CertFile: file, KeyFile: file, RootFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	expectAnswers(t, c)
	if _, err := c.Local.Info(t.Context(), &pb.InfoRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("local calls from afar: %v", err)
	}
}

func TestOverTLSWithTheWrongFiles(t *testing.T) {
	host, file := serveTLS(t)
	_, foreign := serveTLS(t)
	c, err := Dial(host, Options{CertFile: file, KeyFile: file, RootFile: foreign})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Control.GetService(t.Context(), &pb.GetRequest{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("another cluster's server: %v", err)
	}
	stranger, err := Dial(host, Options{CertFile: foreign, KeyFile: foreign, RootFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Control.GetService(t.Context(), &pb.GetRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("another cluster's client: %v", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	noRoot := filepath.Join(t.TempDir(), "leaf.pem")
	end := bytes.LastIndex(data, []byte("-----BEGIN CERTIFICATE"))
	if err := os.WriteFile(noRoot, data[:end], 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]Options{
		"nothing":      {},
		"missing file": {CertFile: "/nowhere", KeyFile: file, RootFile: file},
		"missing root": {CertFile: file, KeyFile: file, RootFile: "/nowhere"},
		"leaf as root": {CertFile: file, KeyFile: file, RootFile: noRoot},
	} {
		if _, err := Dial(host, opts); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
