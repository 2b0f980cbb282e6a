package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Flags of a table: only the socket that owns it may change it, and it stays
// when that socket closes. Linux has the first since 5.12, the second since 6.9.
const (
	flagOwner   = 1 << 1
	flagPersist = 1 << 2
)

// Session is a lasting connection that also says what the library has no words
// for.
type Session struct {
	*nftables.Conn
	raw *netlink.Conn
}

// Dial opens a session in the namespace at path; an empty one is the caller's
// own. It ends with CloseLasting.
func Dial(path string) (*Session, error) {
	s := &Session{}
	options := []nftables.ConnOption{
		nftables.AsLasting(),
		nftables.WithSockOptions(func(c *netlink.Conn) error {
			s.raw = c
			return errors.Join(c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer))
		}),
	}
	if path != "" {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return nil, fmt.Errorf("open network namespace: %w", err)
		}
		defer ns.Close()
		options = append(options, nftables.WithNetNSFd(int(ns)))
	}
	c, err := nftables.New(options...)
	if err != nil {
		return nil, fmt.Errorf("connect to nftables: %w", err)
	}
	s.Conn = c
	return s, nil
}

// Own makes the table, or takes it over, so that nobody but this session can
// change it and it stays when the session ends. Where the kernel cannot do that
// the table is an ordinary one, and owned is false. Commands that are queued
// stay queued. AddTable of an owned table fails, as it would disown it.
func (s *Session) Own(t *nftables.Table) (owned bool, err error) {
	err = s.addTable(t, flagOwner|flagPersist)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
		return false, fmt.Errorf("own table %s: %w", t.Name, err)
	}
	if err := s.addTable(t, 0); err != nil {
		return false, fmt.Errorf("add table %s: %w", t.Name, err)
	}
	return false, nil
}

// addTable sends one transaction that only makes the table, with its flags.
func (s *Session) addTable(t *nftables.Table, flags uint32) error {
	data, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(t.Name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binaryutil.BigEndian.PutUint32(flags)},
	})
	if err != nil {
		return err
	}
	limit := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   header(0, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	_, err = s.raw.SendMessages([]netlink.Message{
		limit(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create,
			},
			Data: append(header(byte(t.Family), 0), data...),
		},
		limit(unix.NFNL_MSG_BATCH_END),
	})
	if err != nil {
		return err
	}
	_, err = s.raw.Receive()
	return err
}

// Generation of the namespace's rules: every transaction that changes something,
// whoever makes it, adds one.
func (s *Session) Generation() (uint32, error) {
	n, err := s.number(netlink.Header{
		Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request,
	}, unix.NFTA_GEN_ID)
	if err != nil {
		return 0, fmt.Errorf("get generation of nftables: %w", err)
	}
	return n, nil
}

// Flows is how many connections the namespace keeps track of. To list them costs
// milliseconds however few they are, as the kernel has one table for all
// namespaces; this number costs nothing.
func (s *Session) Flows() (uint32, error) {
	// The kernel marks its one answer as one of many: only the acknowledgement
	// says that there are no more.
	n, err := s.number(netlink.Header{
		Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | getConntrackStats, Flags: netlink.Request | netlink.Acknowledge,
	}, conntrackEntries)
	if err != nil {
		return 0, fmt.Errorf("count flows: %w", err)
	}
	return n, nil
}

// From linux/netfilter/nfnetlink_conntrack.h: IPCTNL_MSG_CT_GET_STATS and
// CTA_STATS_GLOBAL_ENTRIES.
const (
	getConntrackStats = 5
	conntrackEntries  = 1
)

// number asks a question whose answer is one number, an attribute of a kind.
func (s *Session) number(question netlink.Header, kind uint16) (uint32, error) {
	answers, err := s.raw.Execute(netlink.Message{Header: question, Data: header(unix.AF_UNSPEC, 0)})
	if err != nil {
		return 0, err
	}
	for _, m := range answers {
		if m.Header.Type == netlink.Error || len(m.Data) < nfgenmsg {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == kind && len(ad.Bytes()) == 4 {
				return binaryutil.BigEndian.Uint32(ad.Bytes()), nil
			}
		}
	}
	return 0, errors.New("no answer")
}

// nfgenmsg is the length of the header below.
const nfgenmsg = 4

// header is what every message to netfilter begins with.
func header(family byte, resource uint16) []byte {
	return append([]byte{family, unix.NFNETLINK_V0}, binaryutil.BigEndian.PutUint16(resource)...)
}
