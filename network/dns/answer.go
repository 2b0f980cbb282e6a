package dns

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	wire "github.com/miekg/dns"
)

// fate is whose a name is.
type fate int

const (
	// foreign names are not the cluster's.
	foreign fate = iota
	// known names exist, with or without records of the type asked for.
	known
	// absent names would be the cluster's, but there are none.
	absent
)

// finding is what a question leads to.
type finding struct {
	fate   fate
	answer []wire.RR
	// extra are the addresses of the answer's targets.
	extra []wire.RR
}

// answer finds what a task's question leads to on its networks. Addresses come
// in an order that turn decides.
func answer(q wire.Question, t *Task, zs zones, turn uint64) finding {
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if addr, ok := reversed(name); ok {
		return pointers(q, t, zs, addr)
	}
	if port, protocol, service, ok := splitSRV(name); ok {
		return ports(q, t, zs, portQuery{port, protocol, service})
	}
	if list, _, ok := find(zs, t, name, (*zone).addresses); ok {
		return finding{fate: known, answer: addressRecords(q, list, turn)}
	}
	if rest, ok := strings.CutPrefix(name, "tasks."); ok && !strings.Contains(rest, ".") {
		return finding{fate: absent}
	}
	if _, _, ok := find(zs, t, name, func(z *zone, name string) (_ struct{}, ok bool) { return struct{}{}, z.claims(name) }); ok {
		return finding{fate: absent}
	}
	return finding{fate: foreign}
}

// find looks for a name in the networks of a task: as it is in each of them,
// then without the network's name behind it in that network. It returns the name
// of the network too.
func find[T any](zs zones, t *Task, name string, in func(*zone, string) (T, bool)) (found T, domain string, ok bool) {
	for i, id := range t.Networks {
		z := zs[id]
		if z == nil {
			continue
		}
		if found, ok = in(z, name); ok {
			return found, t.domain(i), true
		}
	}
	for i, id := range t.Networks {
		z, domain := zs[id], t.domain(i)
		head, isHere := cutDomain(name, domain)
		if z == nil || !isHere {
			continue
		}
		if found, ok = in(z, head); ok {
			return found, domain, true
		}
	}
	return found, "", false
}

// domain is the name of the task's i-th network.
func (t *Task) domain(i int) string {
	if i < len(t.Domains) {
		return t.Domains[i]
	}
	return ""
}

// cutDomain takes .domain off a name in lower case.
func cutDomain(name, domain string) (string, bool) {
	head := len(name) - len(domain) - 1
	if domain == "" || head < 1 || name[head] != '.' || !strings.EqualFold(name[head+1:], domain) {
		return "", false
	}
	return name[:head], true
}

// addressRecords are the A or AAAA records of a list, and both for ANY.
func addressRecords(q wire.Question, list []netip.Addr, turn uint64) []wire.RR {
	var out []wire.RR
	for _, addr := range list {
		switch {
		case addr.Is4() && (q.Qtype == wire.TypeA || q.Qtype == wire.TypeANY):
			out = append(out, &wire.A{Hdr: header(q.Name, wire.TypeA), A: addr.AsSlice()})
		case !addr.Is4() && (q.Qtype == wire.TypeAAAA || q.Qtype == wire.TypeANY):
			out = append(out, &wire.AAAA{Hdr: header(q.Name, wire.TypeAAAA), AAAA: addr.AsSlice()})
		}
	}
	shuffle(out, turn)
	return out
}

func header(name string, kind uint16) wire.RR_Header {
	return wire.RR_Header{Name: name, Rrtype: kind, Class: wire.ClassINET, Ttl: TTL}
}

// shuffle puts records into an order that looks random and is the same for the
// same turn. Merely beginning one further each time would not do: the questions
// for A and AAAA come in pairs, so that half of the addresses would never be the
// first, and the successor of a dead one would get twice its share.
func shuffle(list []wire.RR, turn uint64) {
	for i := len(list) - 1; i > 0; i-- {
		turn += 0x9e3779b97f4a7c15
		j := int(mix(turn) % uint64(i+1))
		list[i], list[j] = list[j], list[i]
	}
}

// mix is the output function of SplitMix64 (Steele, Lea, Flood, 2014).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// pointers answers for an address. One that no network of the task's has is
// foreign, also if another network has it.
func pointers(q wire.Question, t *Task, zs zones, addr netip.Addr) finding {
	for i, id := range t.Networks {
		z := zs[id]
		if z == nil || z.owners[addr] == nil {
			continue
		}
		f := finding{fate: known}
		if q.Qtype != wire.TypePTR && q.Qtype != wire.TypeANY {
			return f
		}
		for _, name := range z.pointers(addr) {
			f.answer = append(f.answer, &wire.PTR{Hdr: header(q.Name, wire.TypePTR), Ptr: absolute(name, t.domain(i))})
		}
		return f
	}
	return finding{fate: foreign}
}

// absolute is a name on a network as other programs can ask for it.
func absolute(name, domain string) string {
	if domain == "" {
		return name + "."
	}
	return name + "." + domain + "."
}

const (
	reverse4 = ".in-addr.arpa"
	reverse6 = ".ip6.arpa"
)

// reversed reads the name that stands for an address, without its last dot.
func reversed(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, reverse4); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		addr, err := netip.ParseAddr(strings.Join(labels, "."))
		return addr, err == nil && addr.Is4()
	}
	rest, ok := strings.CutSuffix(name, reverse6)
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	labels := strings.Split(rest, ".")
	slices.Reverse(labels)
	b, err := hex.DecodeString(strings.Join(labels, ""))
	if err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b)), true
}

// portQuery is what an SRV question asks for.
type portQuery struct{ port, protocol, service string }

// splitSRV takes _PORT._PROTO.SERVICE apart.
func splitSRV(name string) (port, protocol, service string, ok bool) {
	rest, isPort := strings.CutPrefix(name, "_")
	port, rest, _ = strings.Cut(rest, ".")
	rest, isProtocol := strings.CutPrefix(rest, "_")
	protocol, service, _ = strings.Cut(rest, ".")
	return port, protocol, service, isPort && isProtocol && service != ""
}

// ports answers for a port of a service: one SRV record for each serving task.
func ports(q wire.Question, t *Task, zs zones, want portQuery) finding {
	services, domain, ok := find(zs, t, want.service, (*zone).named)
	if !ok {
		return finding{fate: foreign}
	}
	f := finding{fate: absent}
	seen := make(map[wire.SRV]bool)
	for _, s := range services {
		for _, p := range s.Ports {
			if !want.matches(p) {
				continue
			}
			f.fate = known
			if q.Qtype != wire.TypeSRV && q.Qtype != wire.TypeANY {
				return f
			}
			f.addTargets(q, s, domain, p.Number, seen)
		}
	}
	return f
}

func (want portQuery) matches(p Port) bool {
	return strings.EqualFold(p.Protocol, want.protocol) &&
		(p.Name != "" && strings.EqualFold(p.Name, want.port) || strconv.Itoa(int(p.Number)) == want.port)
}

// addTargets adds the serving tasks of a service as targets. They are named by
// place, so that a slot keeps its name over its tasks' lives.
func (f *finding) addTargets(q wire.Question, s *service, domain string, port uint16, seen map[wire.SRV]bool) {
	for i, t := range s.Tasks {
		if !t.Serving {
			continue
		}
		place := s.places[i]
		if place == "" {
			place = t.ID
		}
		target := absolute(s.Name+"."+place, domain)
		record := wire.SRV{Hdr: header(q.Name, wire.TypeSRV), Port: port, Target: target}
		if !seen[record] {
			seen[record] = true
			f.answer = append(f.answer, &record)
		}
		f.extra = append(f.extra, addressRecords(wire.Question{Name: target, Qtype: wire.TypeANY}, t.Addresses, 0)...)
	}
}
