// Package nft speaks to nftables in the way that this project needs it: with
// buffers that hold large transactions, in chunks that the library does not cut
// off, and in any network namespace.
package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
)

const (
	// chunk is how many elements go into one message: nftables v0.3.0 cuts off
	// what exceeds 64 KiB without saying so.
	chunk = 500
	// buffer holds the kernel's answers to a batch; too small a one makes Flush
	// fail after the batch was committed.
	buffer = 64 << 20
)

// Connect opens a connection to nftables in the namespace at path; an empty one
// is the caller's own. It is lasting: one socket until CloseLasting, so that a
// change costs no new one.
func Connect(path string) (*nftables.Conn, error) {
	options := []nftables.ConnOption{
		nftables.AsLasting(),
		nftables.WithSockOptions(func(c *netlink.Conn) error {
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
	return c, nil
}

// Add queues elements for a set or map, in messages of a size that arrives.
func Add(c *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	return inChunks(elements, func(part []nftables.SetElement) error { return c.SetAddElements(set, part) })
}

// Delete queues the removal of elements, which must be there.
func Delete(c *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	return inChunks(elements, func(part []nftables.SetElement) error { return c.SetDeleteElements(set, part) })
}

func inChunks(list []nftables.SetElement, send func([]nftables.SetElement) error) error {
	for len(list) > 0 {
		n := min(chunk, len(list))
		if err := send(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}
