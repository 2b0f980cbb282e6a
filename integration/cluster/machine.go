package cluster

import (
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir is the node's directory.
func (n *Node) Dir() string { return filepath.Join(n.c.dir, n.Name) }

// Processes lists what runs on the node, in its namespace or started from there:
// daemons, shims, and containers in namespaces of their own.
func (n *Node) Processes() []int {
	ino, err := n.ns.inode()
	if err != nil {
		return nil
	}
	return processes(ino)
}

// Spawn starts another program than minid on a node made by Prepare; it ends
// with the node. Its output is appended to the file log.
func (n *Node) Spawn(log string, program string, args ...string) (*exec.Cmd, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := n.ns.Do(cmd.Start); err != nil {
		return nil, err
	}
	go cmd.Wait() // so that no zombie is left; who needs the end sees the pid go
	return cmd, nil
}
