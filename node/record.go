package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

// record is what a node remembers of its place in the cluster. It is written
// last by init and join, and removed first by leave: without it, whatever else
// is there is wiped at the next start.
type record struct {
	// Member: the node is part of a cluster.
	Member bool `json:"member"`
	// Recover: raft makes this node the only voter when it opens next.
	Recover bool `json:"recover,omitempty"`
	// Listen, Advertise and DataPath are what init or join was told.
	Listen    choice `json:"listen,omitzero"`
	Advertise choice `json:"advertise,omitzero"`
	DataPath  choice `json:"data_path,omitzero"`
	// Managers were heard of last.
	Managers []string `json:"managers,omitempty"`
	// Founding is the first raft entry of a new cluster, until it is known to
	// be committed. While it is there, an empty raft log begins with this node.
	Founding []byte `json:"founding,omitempty"`
}

// choice is an address that init or join was given in place of a flag.
type choice struct {
	Addr string `json:"addr,omitempty"`
	// Flag is what the flag said then.
	Flag string `json:"flag,omitempty"`
}

// over returns the address in force: that of init or join, unless the flag was
// changed since.
func (c choice) over(flag string) string {
	if c.Addr == "" || flag != "" && flag != c.Flag {
		return flag
	}
	return c.Addr
}

// founding are the first commands of a new cluster, none for others.
func (r record) founding() ([]*pb.Command, error) {
	var entry pb.Entry
	if err := proto.Unmarshal(r.Founding, &entry); err != nil {
		return nil, fmt.Errorf("read founding entry: %w", err)
	}
	return entry.Commands, nil
}

const (
	recordFile = "node.json"
	agentFile  = "agent.db"
	raftDir    = "raft"
	keysDir    = "certificates"
)

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

// wipe forgets a cluster, the record first. Containerd, images, volumes and
// logs stay.
func wipe(dir string) error {
	err := errors.Join(removeAll(filepath.Join(dir, recordFile)), syncDir(dir))
	for _, name := range []string{keysDir, raftDir, agentFile} {
		if err == nil {
			err = removeAll(filepath.Join(dir, name))
		}
	}
	if err != nil {
		return fmt.Errorf("forget cluster: %w", err)
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
