package node

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/internal/realtest"
)

// A disk of its own for the raft log must not keep a node from forgetting.
func TestWipeEmptiesMountPoints(t *testing.T) {
	realtest.NeedRoot(t)
	dir := t.TempDir()
	raft := filepath.Join(dir, "raft")
	if err := os.Mkdir(raft, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", raft, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("cannot mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(raft, unix.MNT_DETACH) })
	for _, name := range []string{"node.json", "agent.db", "raft/raft.db"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := wipe(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node.json", "agent.db", "raft/raft.db"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}
