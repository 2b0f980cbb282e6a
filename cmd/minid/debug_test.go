package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// networkNode is a node whose mesh is damaged; its overlay comes in two pieces.
type networkNode struct{ pb.UnimplementedLocalServer }

func (networkNode) DebugNetwork(req *pb.DebugNetworkRequest, stream grpc.ServerStreamingServer[pb.NetworkPart]) error {
	parts := []*pb.NetworkPart{
		{Name: "overlay", Wanted: "a\n", Actual: "a\n", Intact: true},
		{Name: "overlay", Wanted: "\tb\n", Actual: "\tb\n", Intact: true},
		{Name: "wireguard", Intact: true},
		{Name: "mesh", Wanted: "one\ntwo\nthree\n", Actual: "one\nthree\nfour\n", Problem: "a rule is missing"},
	}
	found := false
	for _, p := range parts {
		if req.GetPart() == "" || req.GetPart() == p.Name {
			found = true
			if err := stream.Send(p); err != nil {
				return err
			}
		}
	}
	if !found {
		return fault.New(fault.NotFound, "no part %s", req.GetPart()).WithTry("minid debug network")
	}
	return nil
}

// serveNode serves the node's control socket in a new run directory.
func serveNode(t *testing.T) (runDir string) {
	t.Helper()
	runDir = t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(runDir, "minid.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewLocalServer(rpc.ServerConfig{Self: func() rpc.Identity { return rpc.Identity{} }})
	pb.RegisterLocalServer(server, networkNode{})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Run(ctx, ln); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return runDir
}

const damaged = `overlay: as it should be
  wanted   actual
  a        a
      b        b

wireguard: as it should be

mesh: NOT as it should be
a rule is missing
  wanted   actual
  one      one
  two    <
  three    three
         > four
`

func TestDebugNetwork(t *testing.T) {
	dir := serveNode(t)
	for _, c := range []struct {
		args      []string
		code      int
		out, says string
	}{
		{nil, 1, damaged, "not as it should be: mesh\n"},
		{[]string{"--part", "overlay"}, 0, damaged[:strings.Index(damaged, "\nwireguard")], ""},
		{[]string{"--part", "overlay", "--format", "json"}, 0, `{"name":"overlay","intact":true,"wanted":"a\n\tb\n","actual":"a\n\tb\n"}` + "\n", ""},
		{[]string{"--part", "nonsense"}, 1, "", "no part nonsense\nTry: minid debug network\n"},
		{[]string{"--format", "xml"}, 2, "", "use text or json"},
		{[]string{"mesh"}, 2, "", `unknown command "mesh"`},
	} {
		var out, errs bytes.Buffer
		args := append([]string{"--run-dir", dir, "debug", "network"}, c.args...)
		if code := run(args, &out, &errs); code != c.code || out.String() != c.out || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%v: exit %d, said %q and printed:\n%s", c.args, code, errs.String(), out.String())
		}
	}
	var out, errs bytes.Buffer
	run([]string{"--run-dir", dir, "debug", "network", "--format", "json"}, &out, &errs)
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var p struct{ Name, Problem string }
		if err := decoder.Decode(&p); err != nil || (p.Name == "mesh") != (p.Problem == "a rule is missing") {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func TestDebugWithoutMinid(t *testing.T) {
	var out, errs bytes.Buffer
	code := run([]string{"--run-dir", t.TempDir(), "debug", "network"}, &out, &errs)
	if code != 1 || !strings.Contains(errs.String(), "is it running?") {
		t.Errorf("exit %d, said %q", code, errs.String())
	}
}
