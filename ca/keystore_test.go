package ca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/rpc"
)

func TestKeystoreRemembers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certificates")
	k := mustOpen(t, dir)
	if _, ok := k.Identity(); ok || !k.ExpiresAt().IsZero() || k.RootPEM() != nil || !fault.Is(k.Check(noon), fault.NotManager) {
		t.Error("an empty keystore has an identity")
	}
	root := mustRoot(t, "c1", noon)
	mustStore(t, k, issue(t, root, Subject{"n1", "c1", managerRole}, time.Hour, noon))
	for name, k := range map[string]*Keystore{"same": k, "reopened": mustOpen(t, dir)} {
		id, ok := k.Identity()
		if !ok || id != (rpc.Identity{NodeID: "n1", ClusterID: "c1", Role: managerRole}) || id != k.Self() {
			t.Errorf("%s: %+v", name, id)
		}
		if !k.ExpiresAt().Equal(noon.Add(time.Hour)) || !bytes.Equal(k.RootPEM(), root.CertPEM()) || k.Check(noon) != nil {
			t.Errorf("%s: expires %v, check %v", name, k.ExpiresAt(), k.Check(noon))
		}
		if err := k.Check(noon.Add(2 * time.Hour)); !fault.Is(err, fault.Denied) || !strings.Contains(fault.TryOf(err), "swarm join") {
			t.Errorf("%s: expired: %v, try %q", name, err, fault.TryOf(err))
		}
	}
	if info, err := os.Stat(filepath.Join(dir, identityFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v", info.Mode(), err)
	}
	if err := k.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, ok := mustOpen(t, dir).Identity(); ok || k.Remove() != nil {
		t.Error("the identity is still there, or cannot be removed again")
	}
}

func TestKeystoreRefusesWhatDoesNotBelongTogether(t *testing.T) {
	k := mustOpen(t, t.TempDir())
	root := mustRoot(t, "c1", noon)
	subject := Subject{"n1", "c1", workerRole}
	good, other := issue(t, root, subject, time.Hour, noon), issue(t, root, subject, time.Hour, noon)
	mustStore(t, k, good)
	for name, m := range map[string]Material{
		"another key":  {other.Key, good.Cert, good.Root},
		"another root": {good.Key, good.Cert, mustRoot(t, "c1", noon).CertPEM()},
		"no key":       {nil, good.Cert, good.Root},
		"no cert":      {good.Key, nil, good.Root},
		"no root":      {good.Key, good.Cert, nil},
	} {
		if err := k.Store(m); err == nil {
			t.Errorf("%s was stored", name)
		}
	}
	if data, err := os.ReadFile(k.path()); err != nil || !bytes.Equal(data, slices.Concat(good.Key, good.Cert, good.Root)) {
		t.Errorf("a refused identity changed the file: %v", err)
	}
}

// TestKeystoreSurvivesCrashes plays what a crash can leave behind: the old file
// or the new one, beside any beginning of the new one under its temporary name.
func TestKeystoreSurvivesCrashes(t *testing.T) {
	dir := t.TempDir()
	root := mustRoot(t, "c1", noon)
	k := mustOpen(t, dir)
	mustStore(t, k, issue(t, root, Subject{"n1", "c1", workerRole}, time.Hour, noon))
	next := issue(t, root, Subject{"n1", "c1", managerRole}, 2*time.Hour, noon)
	data := slices.Concat(next.Key, next.Cert, next.Root)
	for n := 0; n <= len(data); n += 37 {
		if err := os.WriteFile(k.path()+".new", data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if id, ok := mustOpen(t, dir).Identity(); !ok || id.Role != workerRole {
			t.Fatalf("after a crash at byte %d: %+v, %v", n, id, ok)
		}
	}
	mustStore(t, k, next)
	if id, ok := mustOpen(t, dir).Identity(); !ok || id.Role != managerRole {
		t.Errorf("after the rename: %+v, %v", id, ok)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestDamagedKeystoreIsAnError(t *testing.T) {
	dir := t.TempDir()
	k := mustOpen(t, dir)
	m := issue(t, mustRoot(t, "c1", noon), Subject{"n1", "c1", workerRole}, time.Hour, noon)
	for _, data := range [][]byte{{}, []byte("junk"), m.Key, slices.Concat(m.Key, m.Cert), slices.Concat(m.Cert, m.Root), slices.Concat(m.Key, m.Root, m.Cert)} {
		if err := os.WriteFile(k.path(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKeystore(dir); err == nil || !strings.Contains(err.Error(), k.path()) || fault.TryOf(err) == "" {
			t.Errorf("%d bytes: %v", len(data), err)
		}
	}
}

// handshake shakes hands over a pipe and returns what each side saw.
func handshake(server, client *tls.Config) (seen *x509.Certificate, serverErr, clientErr error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s, c := tls.Server(a, server), tls.Client(b, client)
	var wg sync.WaitGroup
	wg.Go(func() {
		if serverErr = s.Handshake(); serverErr != nil {
			a.Close()
		}
	})
	if clientErr = c.Handshake(); clientErr != nil {
		b.Close()
	}
	wg.Wait()
	if certs := c.ConnectionState().PeerCertificates; len(certs) > 0 {
		seen = certs[0]
	}
	return seen, serverErr, clientErr
}

func TestTLSFollowsTheKeystore(t *testing.T) {
	now := time.Now()
	root := mustRoot(t, "c1", now)
	server, client := mustOpen(t, t.TempDir()), mustOpen(t, t.TempDir())
	serverTLS, clientTLS := server.ServerTLS(), client.ClientTLS() // taken once, while empty
	if _, err, _ := handshake(serverTLS, clientTLS); err == nil {
		t.Error("a server without identity shook hands")
	}
	mustStore(t, client, issue(t, root, Subject{"c", "c1", workerRole}, time.Hour, now))
	for _, nodeID := range []string{"m1", "m2"} {
		mustStore(t, server, issue(t, root, Subject{nodeID, "c1", managerRole}, time.Hour, now))
		seen, serr, cerr := handshake(serverTLS, clientTLS)
		if serr != nil || cerr != nil || seen.Subject.CommonName != nodeID {
			t.Fatalf("saw %v, %v, %v", seen, serr, cerr)
		}
	}
	for name, s := range map[string]struct {
		root *Root
		Subject
		at time.Time
	}{
		"worker":  {root, Subject{"w1", "c1", workerRole}, now},
		"expired": {mustRoot(t, "c1", now.Add(-48*time.Hour)), Subject{"m1", "c1", managerRole}, now.Add(-24 * time.Hour)},
		"foreign": {mustRoot(t, "c1", now), Subject{"m1", "c1", managerRole}, now},
	} {
		mustStore(t, server, issue(t, s.root, s.Subject, time.Hour, s.at))
		if _, _, err := handshake(serverTLS, clientTLS); err == nil {
			t.Errorf("%s: the client took it for a manager of its cluster", name)
		}
	}
	mustStore(t, server, issue(t, root, Subject{"m1", "c1", managerRole}, time.Hour, now))
	if err := client.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := handshake(serverTLS, clientTLS); err == nil {
		t.Error("a node that left its cluster still shakes hands")
	}
}
