package integration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestTop: of real containers, the one that burns is first, with the CPU that it
// may have. A node that dies is told of while the others go on, and seen again
// when it is back.
func TestTop(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	lost := w.Nodes()[4]
	w.create(t, via, service{name: "calm", replicas: 4, command: []string{"sleep"}})
	w.create(t, via, service{name: "burner", command: []string{"burn", "/tmp/file", "1000000"}, flags: []string{
		"--limit-cpu", "0.5", "--limit-memory", "256M", "--constraint", "node.hostname==" + w.Nodes()[3].Name}})

	await(t, "the burner is first", patience, func() error {
		first, _, _ := strings.Cut(ctl(t, via, "top", "tasks", "calm", "burner", "--once", "--interval", "1s", "-o", "json"), "\n")
		var row struct {
			Name, Node       string
			CPUs, CPULimit   float64
			MemoryLimitBytes int64
			WrittenBytes     int64
		}
		if err := json.Unmarshal([]byte(first), &row); err != nil {
			return err
		}
		if row.Name != "burner.1" || row.Node != w.Nodes()[3].Name || row.CPUs < 0.05 || row.CPUs > 1 {
			return fmt.Errorf("first is %s", first)
		}
		if row.CPULimit != 0.5 || row.MemoryLimitBytes != 256<<20 || row.WrittenBytes < 1000000 {
			return fmt.Errorf("the burner: %s", first)
		}
		return nil
	})
	all := ctl(t, via, "top")
	says(t, "top", all, "5 nodes, ", "OF LIMIT", "calm.4", "burner.1")

	bin, err := filepath.Abs("../bin/minictl")
	if err != nil {
		t.Fatal(err)
	}
	tty, screen := terminal(t, via.Do, bin, "-H", via.Socket(), "top", "nodes", "--sort", "name", "--interval", "1s")
	// picture is the last one that is whole.
	picture := func() (text string, number int) {
		pictures := strings.Split(screen(), "\x1b[H")
		return pictures[max(0, len(pictures)-2)], len(pictures)
	}
	shows := func(what, word string, present bool) {
		t.Helper()
		await(t, what, patience, func() error {
			if text, _ := picture(); !strings.Contains(text, "nodes, ") || strings.Contains(text, word) != present {
				return errors.New(text)
			}
			return nil
		})
	}
	warning := fmt.Sprintf("Warning: node %s gives no samples", lost.Name)
	shows("all nodes", lost.Name, true)
	if err := lost.Kill(); err != nil {
		t.Fatal(err)
	}
	shows("the lost node's warning", warning, true)
	_, before := picture()
	await(t, "the others go on", patience, func() error {
		if text, now := picture(); now < before+3 || !strings.Contains(text, "\n"+w.Nodes()[3].Name+" ") {
			return errors.New(text)
		}
		return nil
	})
	shows("4 of 5 nodes", "4 of 5 nodes", true)
	if err := lost.Start(); err != nil {
		t.Fatal(err)
	}
	shows("the lost node is back", warning, false)
	if _, err := tty.master.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	if code := tty.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w.awaitReady(t, 5)
}
