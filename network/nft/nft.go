// Package nft speaks to nftables in the way that this project needs it: with
// buffers that hold large transactions, in chunks that the library does not cut
// off, and in any network namespace.
package nft

import "github.com/google/nftables"

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
	s, err := Dial(path)
	if err != nil {
		return nil, err
	}
	return s.Conn, nil
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
