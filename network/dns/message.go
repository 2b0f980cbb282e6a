package dns

import (
	"strconv"
	"strings"

	wire "github.com/miekg/dns"
)

const (
	// maxUDP is the largest reply over UDP, for clients that take it (EDNS). They
	// are on the same host, where no packet is fragmented.
	maxUDP = 4096
	// defaultUDP is what a client without EDNS takes (RFC 1035).
	defaultUDP = wire.MinMsgSize
)

// respond makes the reply to a message, nil if it gets none. When the reply has
// to be asked for elsewhere, forward is set and the reply is what to say instead.
func respond(q *wire.Msg, t *Task, zs zones, turn uint64) (reply *wire.Msg, forward bool) {
	if q.Response {
		return nil, false
	}
	reply = new(wire.Msg)
	reply.SetReply(q)
	reply.RecursionAvailable = true
	if rcode := refusal(q); rcode != wire.RcodeSuccess {
		reply.Rcode = rcode
		setEDNS(reply, q)
		return reply, false
	}
	setEDNS(reply, q)
	f := answer(q.Question[0], t, zs, turn)
	switch f.fate {
	case known:
		reply.Authoritative = true
		reply.Answer = f.answer
		reply.Extra = append(f.extra, reply.Extra...)
	case absent:
		reply.Authoritative = true
		reply.Rcode = wire.RcodeNameError
	default:
		reply.Rcode = wire.RcodeNameError
		return reply, t.mayForward(q.Question[0])
	}
	return reply, false
}

// refusal is the response code of a message that is not a plain question.
func refusal(q *wire.Msg) int {
	switch {
	case q.Opcode != wire.OpcodeQuery:
		return wire.RcodeNotImplemented
	case len(q.Question) != 1:
		return wire.RcodeFormatError
	}
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		return wire.RcodeBadVers
	}
	switch q.Question[0].Qtype {
	case wire.TypeAXFR, wire.TypeIXFR, wire.TypeOPT, wire.TypeTSIG, wire.TypeTKEY:
		return wire.RcodeRefused
	}
	if q.Question[0].Qclass != wire.ClassINET {
		return wire.RcodeRefused
	}
	return wire.RcodeSuccess
}

// setEDNS answers EDNS with EDNS (RFC 6891).
func setEDNS(reply, q *wire.Msg) {
	if opt := q.IsEdns0(); opt != nil {
		reply.SetEdns0(maxUDP, opt.Do())
	}
}

// mayForward tells whether a question may leave the cluster. With the option
// ndots, a task's resolver completes single labels with search domains, so one
// that comes as it is means the cluster's names only (as Docker has it).
func (t *Task) mayForward(q wire.Question) bool {
	if t.Internal {
		return false
	}
	isAddress := q.Qtype == wire.TypeA || q.Qtype == wire.TypeAAAA
	single := !strings.Contains(strings.TrimSuffix(q.Name, "."), ".")
	return !isAddress || !single || ndots(t.Options) == 0
}

// ndots reads the option of that name; the last one counts, as in libc.
func ndots(options []string) (n int) {
	for _, o := range options {
		if text, ok := strings.CutPrefix(o, "ndots:"); ok {
			if v, err := strconv.Atoi(text); err == nil {
				n = v
			}
		}
	}
	return n
}

// malformed is the reply to bytes that are no message: to their header, as far
// as it is one of a question.
func malformed(packet []byte) *wire.Msg {
	const length, isResponse = 12, 0x80
	if len(packet) < length || packet[2]&isResponse != 0 {
		return nil
	}
	reply := new(wire.Msg)
	reply.Id = uint16(packet[0])<<8 | uint16(packet[1])
	reply.Response = true
	reply.Opcode = int(packet[2] >> 3 & 0xf)
	reply.Rcode = wire.RcodeFormatError
	return reply
}

// limit is the size that a reply may have.
func limit(q *wire.Msg, tcp bool) int {
	if tcp {
		return wire.MaxMsgSize
	}
	if opt := q.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), defaultUDP), maxUDP)
	}
	return defaultUDP
}

// pack writes a reply into buf if it fits; what exceeds the client's limit is
// left out and the reply marked as truncated.
func pack(reply *wire.Msg, size int, buf []byte) ([]byte, error) {
	reply.Compress = false
	if reply.Len() > size {
		reply.Truncate(size)
	}
	return reply.PackBuffer(buf)
}
