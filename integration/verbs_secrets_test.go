package integration_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// planted is a random text that is searched for where it must not be.
type planted string

func plant() planted {
	raw := make([]byte, 24)
	rand.Read(raw)
	return planted("planted-" + hex.EncodeToString(raw))
}

// in tells whether the text is in data, as it is or as JSON would have it.
func (p planted) in(data []byte) bool {
	if bytes.Contains(data, []byte(p)) {
		return true
	}
	// Whatever stands before it, one of three shifts encodes it.
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), p...))
		if bytes.Contains(data, []byte(encoded[4:len(encoded)-4])) {
			return true
		}
	}
	return false
}

// onDisk lists a node's files that hold the text and outlive a power cut.
func (p planted) onDisk(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(n.Dir(), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // files come and go
		case err != nil:
			return err
		case entry.IsDir():
			var st unix.Statfs_t
			if unix.Statfs(path, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.PROC_SUPER_MAGIC || st.Type == unix.SYSFS_MAGIC) {
				return fs.SkipDir
			}
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err == nil && p.in(data) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// inMemory lists a node's mounts of memory that hold the text.
func (p planted) inMemory(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasPrefix(fields[4], n.Dir()+"/") || !strings.Contains(line, " - tmpfs ") {
			continue
		}
		filepath.WalkDir(fields[4], func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				if data, err := os.ReadFile(path); err == nil && p.in(data) {
					found = append(found, path)
				}
			}
			return nil
		})
	}
	return found
}

// TestSecretsReachTheirTasksOnly plants random bytes and looks for them
// everywhere.
func TestSecretsReachTheirTasksOnly(t *testing.T) {
	w := sharedSwarm(t)
	leader, via, with := w.names(t)
	without := w.Nodes()[4]
	secret := plant()
	if res := tryInput(t, via, string(secret), "secret", "create", "--label", "kind=test", "planted", "-"); res.Code != 0 {
		t.Fatal(res.Stderr)
	}
	w.undo(t, "secret", "rm", "planted")
	w.create(t, via, service{name: "trusted", flags: []string{"--constraint", "node.hostname==" + with.Name,
		"--secret", "planted", "--secret", "source=planted,target=renamed,uid=1000,gid=50,mode=0400", "--update-monitor", "0s"}})
	w.create(t, via, service{name: "stranger", flags: []string{"--constraint", "node.hostname==" + without.Name}})

	if got := inTask(t, via, "trusted", "cat", "/run/secrets/planted"); got != string(secret) {
		t.Errorf("the task reads %q", got)
	}
	for file, want := range map[string]string{"planted": "0444 0:0", "renamed": "0400 1000:50"} {
		if got := inTask(t, via, "trusted", "stat", "/run/secrets/"+file); got != fmt.Sprintf("%s %d", want, len(secret)) {
			t.Errorf("%s is %q, not %q", file, got, want)
		}
	}
	says(t, "mounts of the task", inTask(t, via, "trusted", "cat", "/proc/mounts"), "tmpfs /run/secrets tmpfs ro")
	if res := try(t, via, "exec", "stranger", "--", "sample", "ls", "/run/secrets"); res.Code == 0 && res.Stdout != "" {
		t.Errorf("a task without secrets has %q", res.Stdout)
	}
	if found := secret.inMemory(t, with); len(found) == 0 {
		t.Error("the search does not find the secret where it must be")
	}
	secret.nowhereElse(t, w, leader, with)

	refused(t, via, 4, []string{"used by service trusted", "Try: minictl service update --secret-rm planted trusted"}, "secret", "rm", "planted")
	ctl(t, via, "service", "update", "--quiet", "--secret-rm", "planted", "trusted")
	if res := try(t, via, "exec", "trusted", "--", "sample", "cat", "/run/secrets/planted"); res.Code == 0 {
		t.Error("the secret is there after --secret-rm")
	}
	await(t, "secret leaves the node with its last task", patience, func() error {
		if left := secret.inMemory(t, with); len(left) > 0 {
			return fmt.Errorf("it is in %v", left)
		}
		return nil
	})
	ctl(t, leader, "service", "update", "--quiet", "--secret-add", "source=planted,target=/etc/again", "trusted")
	if got := inTask(t, leader, "trusted", "cat", "/etc/again"); got != string(secret) {
		t.Errorf("after --secret-add the task reads %q", got)
	}
	secret.nowhereElse(t, w, leader, with)
}

// nowhereElse searches what other nodes have, what anybody can ask for, and
// what minid logs. Managers keep secrets in their log.
func (p planted) nowhereElse(t *testing.T, w *world, manager, with *cluster.Node) {
	t.Helper()
	for _, worker := range w.Nodes()[3:] {
		if found := p.onDisk(t, worker); len(found) > 0 {
			t.Errorf("the secret is on the disk of %s: %v", worker.Name, found)
		}
		if found := p.inMemory(t, worker); worker != with && len(found) > 0 {
			t.Errorf("the secret is on %s, without need: %v", worker.Name, found)
		}
	}
	for _, n := range w.Nodes() {
		if p.in([]byte(readFile(t, n.LogFile()))) {
			t.Errorf("the secret is in the log of %s", n.Name)
		}
	}
	for _, args := range [][]string{
		{"secret", "ls", "--format", "json"}, {"secret", "inspect", "planted"}, {"secret", "inspect", "--pretty", "planted"},
		{"secret", "inspect", "--format", "yaml", "planted"}, {"service", "inspect", "trusted"}, {"service", "ls", "--format", "json"},
		{"task", "ls", "--format", "json"}, {"task", "inspect", "trusted.1"}, {"service", "logs", "trusted"}, {"node", "ls", "--format", "json"},
		{"secret", "create", "planted", w.Dir()}, {"secret", "rm", "planted"}, {"info"},
	} {
		if res := try(t, manager, args...); p.in([]byte(res.Stdout + res.Stderr)) {
			t.Errorf("minictl %s shows the secret", strings.Join(args, " "))
		}
	}
	p.notWatched(t, manager)
}

// notWatched reads everything that the API streams about the present state.
func (p planted) notWatched(t *testing.T, manager *cluster.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := api(t, manager).Control.Watch(ctx, &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if data, err := proto.Marshal(event); err != nil || p.in(data) {
			t.Errorf("a watch shows the secret (%v): %s %s", err, event.GetAction(), event.GetObject().ProtoReflect().Descriptor().Name())
		}
		if event.GetAction() == pb.WatchEvent_ACTION_SYNCED {
			return
		}
	}
}

// TestConfigsReachTheirTasks is about what may be seen.
func TestConfigsReachTheirTasks(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	file := filepath.Join(t.TempDir(), "config")
	for name, text := range map[string]string{"one": "first\n", "two": "second\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ctl(t, via, "config", "create", name, file)
		w.undo(t, "config", "rm", name)
	}
	w.create(t, via, service{name: "configured", flags: []string{"--config", "one", "--update-monitor", "0s",
		"--config", "source=one,target=/etc/app/main.conf,uid=5,gid=6,mode=0440"}})
	if got := inTask(t, via, "configured", "cat", "/one"); got != "first" {
		t.Errorf("/one holds %q", got)
	}
	if got := inTask(t, via, "configured", "stat", "/etc/app/main.conf"); got != "0440 5:6 6" {
		t.Errorf("main.conf is %q", got)
	}
	says(t, "config inspect", ctl(t, via, "config", "inspect", "--pretty", "one"), "first")
	refused(t, via, 4, []string{"used by service configured"}, "config", "rm", "one")
	ctl(t, via, "service", "update", "--quiet", "--config-rm", "one", "--config-add", "two", "configured")
	if got := inTask(t, via, "configured", "cat", "/two"); got != "second" {
		t.Errorf("/two holds %q", got)
	}
	if res := try(t, via, "exec", "configured", "--", "sample", "cat", "/one"); res.Code == 0 {
		t.Error("/one is there after --config-rm")
	}
}
