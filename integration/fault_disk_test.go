package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestDiskFull fills the disk that a lone manager keeps its log on.
func TestDiskFull(t *testing.T) {
	w := ownWorld(t)
	n := w.limited(t)
	ctl(t, n.Node, "swarm", "init", "--advertise-addr", n.Addr)
	kept := fillLog(t, n)
	refuses(t, n)
	n.makeRoom(t)
	took := awaitWrite(t, n.Node, 30*time.Second)
	t.Logf("writes accepted again %v after there was room", took.Round(10*time.Millisecond))
	hasConfigs(t, n, kept)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	awaitWrite(t, n.Node, 30*time.Second)
	hasConfigs(t, n, kept)
}

// TestDiskFullAtStart starts a manager whose disk filled up while it was off.
func TestDiskFullAtStart(t *testing.T) {
	w := ownWorld(t)
	n := w.limited(t)
	ctl(t, n.Node, "swarm", "init", "--advertise-addr", n.Addr)
	kept := fillLog(t, n)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	n.fill(t)
	if err := n.Start(); err != nil {
		t.Logf("start with a full disk: %v", err)
	} else {
		refuses(t, n)
	}
	n.makeRoom(t)
	if n.Pid() == 0 {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	awaitWrite(t, n.Node, 60*time.Second)
	hasConfigs(t, n, kept)
}

// TestLeadersDiskFull fills the disk of the leader of three: another leads.
func TestLeadersDiskFull(t *testing.T) {
	w := ownWorld(t)
	full := w.limited(t)
	ctl(t, full.Node, "swarm", "init", "--advertise-addr", full.Addr)
	var rest []*cluster.Node
	for range 2 {
		n, err := w.Node()
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Join(t.Context(), full.Node, "manager"); err != nil {
			t.Fatal(err)
		}
		rest = append(rest, n)
	}
	w.awaitReady(t, 3)
	kept := 0
	for ; kept < 5; kept++ {
		if err := putConfig(t.Context(), rest[0], kept); err != nil {
			t.Fatal(err)
		}
	}
	full.fill(t)
	await(t, "another leader", 60*time.Second, func() error {
		if err := putConfig(t.Context(), rest[0], kept); err == nil {
			kept++
		}
		if info, err := full.Info(t.Context()); err != nil || info.Leader {
			return fmt.Errorf("%s still leads: %v", full.Name, err)
		}
		return nil
	})
	took := awaitWrite(t, rest[1], 20*time.Second)
	t.Logf("another leader accepts writes after %v", took.Round(10*time.Millisecond))
	// The one without space is heard as well: its agent is well.
	awaitNode(t, rest[0], full.Name, ready, 20*time.Second)
	hasConfigs(t, &smallDisk{Node: rest[0]}, kept)
	full.makeRoom(t)
	// It catches up, and the cluster can bear the loss of another manager.
	await(t, "caught up", 60*time.Second, func() error {
		raft, err := nodeOf(t.Context(), rest[0], full.Name)
		if err == nil && !raft.GetManagerStatus().GetReachable() {
			err = fmt.Errorf("%s is %v", full.Name, raft.GetManagerStatus())
		}
		return err
	})
	if err := rest[1].Kill(); err != nil {
		t.Fatal(err)
	}
	awaitWrite(t, full.Node, 60*time.Second)
	hasConfigs(t, full, kept)
}

// smallDisk is a node whose raft log has a disk of its own.
type smallDisk struct{ *cluster.Node }

func (w *world) limited(t *testing.T) *smallDisk {
	t.Helper()
	n, err := w.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.LimitDisk("raft", 24<<20); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	return &smallDisk{n}
}

func (n *smallDisk) filler() string { return filepath.Join(n.DataDir(), "raft", "filler") }

// fill writes until the disk is full.
func (n *smallDisk) fill(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(n.filler(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 1<<10; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// makeRoom removes what fill wrote; the disk grows if the log itself filled it.
func (n *smallDisk) makeRoom(t *testing.T) {
	t.Helper()
	if err := os.Remove(n.filler()); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	dir := filepath.Join(n.DataDir(), "raft")
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=256m,mode=0700"); err != nil {
		t.Fatal(err)
	}
}

// fillLog fills the disk, then writes until the log does not take any more, and
// returns how many configs were accepted.
func fillLog(t *testing.T, n *smallDisk) int {
	t.Helper()
	kept := 0
	for ; kept < 10; kept++ {
		if err := putConfig(t.Context(), n.Node, kept); err != nil {
			t.Fatal(err)
		}
	}
	n.fill(t)
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); kept++ {
		if err := putConfig(t.Context(), n.Node, kept); err != nil {
			t.Logf("refused after %d configs of 100 kB: %v", kept, err)
			return kept
		}
		n.fill(t)
	}
	t.Fatalf("%d configs were accepted by a full disk", kept)
	return 0
}

func configData(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, 100_000) }

func putConfig(ctx context.Context, n *cluster.Node, i int) error {
	c, err := n.API()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = c.Control.CreateConfig(ctx, &pb.CreateConfigRequest{Spec: &pb.ConfigSpec{Name: fmt.Sprintf("c%03d", i), Data: configData(i)}})
	return err
}

// refuses requires clear refusals. Some small changes may still find room.
func refuses(t *testing.T, n *smallDisk) {
	t.Helper()
	i := 0
	some := strings.Repeat("x", 20_000) // the log's file has some free pages yet
	await(t, "clear refusal", 30*time.Second, func() error {
		i++
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		res, err := n.CtlInput(ctx, some, "config", "create", fmt.Sprintf("small%d", i), "-")
		if err == nil {
			return errors.New("accepted")
		}
		if res.Code != 8 || !strings.Contains(res.Stderr, "no space left on device") {
			return err
		}
		t.Logf("exit code %d: %s", res.Code, res.Stderr)
		return nil
	})
}

// hasConfigs requires that all accepted configs are there, whole.
func hasConfigs(t *testing.T, n *smallDisk, kept int) {
	t.Helper()
	c := api(t, n.Node)
	for i := range kept {
		await(t, "config", 30*time.Second, func() error {
			config, err := c.Control.GetConfig(t.Context(), &pb.GetRequest{Ref: fmt.Sprintf("c%03d", i)})
			if err != nil {
				return err
			}
			if data := config.GetSpec().GetData(); !bytes.Equal(data, configData(i)) {
				t.Fatalf("config %d was accepted with other data than the %d bytes that are there", i, len(data))
			}
			return nil
		})
	}
}
