package node

import (
	"os"
	"path/filepath"
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Whatever init, join or leave had written when the process died, without its
// record it is gone at the next start.
func TestWithoutARecordNothingCounts(t *testing.T) {
	for _, left := range []string{keysDir + "/node.pem", raftDir + "/raft.db", agentFile} {
		dir := t.TempDir()
		path := filepath.Join(dir, left)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := Defaults()
		cfg.DataDir = dir
		n, err := New(cfg, Host{Local: pb.UnimplementedLocalServer{}})
		if err != nil {
			t.Fatalf("with a left %s: %v", left, err)
		}
		if _, ok := n.keys.Identity(); ok || n.returning() != nil {
			t.Errorf("with a left %s the node is a member", left)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", left, err)
		}
	}
}

func TestAFlagThatChangedWins(t *testing.T) {
	told := choice{Addr: "10.0.0.1", Flag: "eth0"}
	for flag, want := range map[string]string{"eth0": "10.0.0.1", "": "10.0.0.1", "eth1": "eth1"} {
		if got := told.over(flag); got != want {
			t.Errorf("flag %q: %q, want %q", flag, got, want)
		}
	}
	if got := (choice{Flag: "eth0"}).over("eth0"); got != "eth0" {
		t.Errorf("nothing told: %q", got)
	}
}
