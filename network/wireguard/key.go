package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/minid/minid/fault"
)

// keyFile keeps the private key in the data directory. It never leaves the node.
const keyFile = "wireguard.key"

// loadKey reads the node's private key, or makes one.
func loadKey(dir string) (wgtypes.Key, error) {
	name := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return newKey(name)
	}
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("read encryption key: %w", err)
	}
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(text)))
	if err != nil {
		return key, fault.New(fault.State, "read encryption key: %s is damaged", name).
			WithTry("remove the file and restart minid, which makes a new key")
	}
	return key, nil
}

func newKey(name string) (wgtypes.Key, error) {
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return key, fmt.Errorf("make encryption key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return key, fmt.Errorf("store encryption key: %w", err)
	}
	// A half written key under its name would be a damaged one.
	if err := writeSynced(name+".new", []byte(key.String()+"\n")); err != nil {
		return key, fmt.Errorf("store encryption key: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return key, fmt.Errorf("store encryption key: %w", err)
	}
	return key, nil
}

func writeSynced(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
