package network

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/dns"
	"github.com/minid/minid/network/mesh"
	"github.com/minid/minid/network/overlay"
	"github.com/minid/minid/network/vip"
	"github.com/minid/minid/network/wireguard"
)

// Part is one part of the network: what it should be and what it is, as text in
// one form, so that lines differ where the kernel does.
type Part struct {
	// Name of the part, or of its kind and the task's id: "vip/TASK".
	Name           string
	Wanted, Actual string
	// Intact: both are the same, and nothing is known to be wrong.
	Intact bool
	// Problem says what is wrong, where that is known.
	Problem string
}

const (
	partBridge = "bridge"
	partNames  = "names"
	partVIP    = "vip"
	partDNS    = "dns"

	untold = "the managers' word is not here yet: what is there stays"
)

// Debug emits the part with the name, those of a kind for the kind's name, the
// ones whose name begins so for one with a slash, or all for an empty name.
func (e *Engine) Debug(name string, emit func(Part) error) error {
	found := false
	for _, part := range e.parts() {
		if !chosen(part, name) {
			continue
		}
		found = true
		if err := emit(e.debug(part)); err != nil {
			return err
		}
	}
	if !found {
		return fault.New(fault.NotFound, "this node's network has no part %s", name).WithTry("minid debug network")
	}
	return nil
}

func chosen(part, name string) bool {
	return name == "" || part == name || strings.HasPrefix(part, name+"/") ||
		strings.Contains(name, "/") && strings.HasPrefix(part, name)
}

// parts are the names of all parts: first the node's, then the tasks'.
func (e *Engine) parts() []string {
	out := []string{partBridge, partOverlay, partWireGuard, partMesh, partNames}
	var locals map[string]*Local
	e.view(func(s *State) { locals = s.Locals() })
	for _, id := range slices.Sorted(maps.Keys(locals)) {
		if len(locals[id].GetAddresses()) > 0 {
			out = append(out, partVIP+"/"+id)
		}
		out = append(out, partDNS+"/"+id)
	}
	return out
}

// debug looks at a part, after what is due was done.
func (e *Engine) debug(name string) Part {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	e.flush()
	kind, task, _ := strings.Cut(name, "/")
	p := Part{Name: name}
	known := e.broken[name]
	var err error
	if task != "" {
		known = e.broken[task]
		p.Wanted, p.Actual, err = e.compareTask(kind, task)
	} else {
		p.Wanted, p.Actual, err = e.compareNode(kind)
	}
	p.Intact = p.Wanted == p.Actual && err == nil && known == nil
	if err := errors.Join(known, err); err != nil {
		p.Problem = err.Error()
	}
	told := false
	e.view(func(*State) { told = e.told })
	if !told && kind != partBridge && err == nil {
		p.Wanted, p.Intact, p.Problem = p.Actual, true, untold
	}
	return p
}

func (e *Engine) compareNode(part string) (wanted, actual string, err error) {
	switch part {
	case partBridge:
		wanted = e.bridge.Wanted().Render()
		actual, err = e.bridge.Dump()
	case partOverlay:
		var w overlay.Wanted
		e.view(func(s *State) { w = s.Overlay() })
		wanted = w.Render()
		actual, err = e.overlay.Dump()
	case partWireGuard:
		var w *wireguard.Wanted
		e.view(func(s *State) { w = s.WireGuard() })
		if w != nil {
			wanted = w.Render()
		}
		actual, err = e.wireguard.Dump()
	case partMesh:
		return e.compareMesh()
	case partNames:
		var zones map[string]map[string]dns.Service
		e.view(func(s *State) { zones = s.Zones() })
		wanted, actual = dns.Render(zones), e.dns.DumpNames()
	}
	return wanted, actual, err
}

func (e *Engine) compareMesh() (wanted, actual string, err error) {
	var w mesh.Wanted
	ready := false
	e.view(func(s *State) { w, ready = s.Mesh(e.bridge.Wanted().Pool) })
	if !ready {
		actual, err = e.mesh.DumpRest()
		return "", actual, err
	}
	return e.mesh.Compare(w)
}

// compareTask looks into a task's namespace.
func (e *Engine) compareTask(part, id string) (wanted, actual string, err error) {
	var balanced vip.Wanted
	var named dns.Task
	here := false
	e.view(func(s *State) {
		if l := s.Local(id); l != nil {
			here, balanced, named = true, s.VIPs(l), s.nameTask(l)
		}
	})
	switch b := e.balancers[id]; {
	case !here:
		return "", "", errors.New("the task has just gone")
	case part == partDNS:
		return e.dns.Compare(named)
	case b == nil:
		return balanced.Render(), "", errors.New("nobody balances in the task's namespace yet")
	default:
		return b.Compare(balanced)
	}
}
