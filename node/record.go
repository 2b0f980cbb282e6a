package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// record is what a node remembers of its place in the cluster. Its Member is
// the commit point of init and join: without it, whatever else they wrote is
// wiped at the next start.
type record struct {
	// Member: the node is part of a cluster.
	Member bool `json:"member"`
	// Founder: the node's raft log began with this node.
	Founder bool `json:"founder,omitempty"`
	// Recover: at its next start, raft makes this node the only voter.
	Recover bool `json:"recover,omitempty"`
	// ListenAddr and AdvertiseAddr as init or join were told; empty follows the flags.
	ListenAddr    string `json:"listenAddr,omitempty"`
	AdvertiseAddr string `json:"advertiseAddr,omitempty"`
	// Managers were heard of last.
	Managers []string `json:"managers,omitempty"`
	// Founding holds the first raft entry of a new cluster until it is committed.
	Founding []byte `json:"founding,omitempty"`
}

const recordFile = "node.json"

func loadRecord(dir string) (record, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read %s: %w", filepath.Join(dir, recordFile), err)
	}
	return r, nil
}

func (r record) save(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, recordFile), data)
}

// writeFile replaces a file so that a crash leaves the old one or the new one.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// membershipFiles are what a node has of its cluster.
var membershipFiles = [...]string{recordFile, "certificates", "raft", "agent.db"}

// wipe forgets a cluster. Containerd, images, volumes and logs stay.
func wipe(dir string) error {
	for _, name := range membershipFiles {
		if err := removeAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("forget cluster: %w", err)
		}
	}
	return nil
}

// removeAll removes a file or a directory with what it holds. A directory that
// is a mount point, as of a disk for the raft log alone, stays and is emptied.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if errors.Is(err, unix.EBUSY) {
		if left, readErr := os.ReadDir(path); readErr == nil && len(left) == 0 {
			return nil
		}
	}
	return err
}
