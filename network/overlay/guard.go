package overlay

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/minid/minid/network/nft"
)

// setTable makes the host's table as it should be, with the elements that
// differ when it is known.
func (o *Overlay) setTable() error {
	want := newGuard(o.networks, o.peers, o.port)
	if o.table != nil && maps.EqualFunc(o.table, want, equalKeys) {
		return nil
	}
	c, err := nft.Connect("")
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	if o.table == nil {
		err = loadTable(c, want)
	} else {
		err = o.table.change(c, want)
	}
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		o.table = nil // what was committed is not known: load it whole next time
		return fmt.Errorf("write table %s: %w", TableName, err)
	}
	o.table = want
	return nil
}

func (o *Overlay) networks(yield func(Network) bool) {
	for _, s := range o.segments {
		if !yield(s.net) {
			return
		}
	}
}

// loadTable queues the replacement of the whole table.
func loadTable(c *nftables.Conn, g guard) error {
	t := c.AddTable(table())
	c.DelTable(t) // adding first makes deleting succeed where there was none
	c.AddTable(t)
	for _, s := range sets() {
		k := s.kernel()
		if err := c.AddSet(k, nil); err != nil {
			return err
		}
		if err := nft.Add(c, k, elements(g[s.name])); err != nil {
			return err
		}
	}
	for _, ch := range chains() {
		added := c.AddChain(&nftables.Chain{Table: t, Name: ch.name, Type: nftables.ChainTypeFilter, Hooknum: ch.hookNum, Priority: ch.prioNum})
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: added, Exprs: r.exprs})
		}
	}
	return nil
}

// change queues what makes one guard another.
func (g guard) change(c *nftables.Conn, want guard) error {
	for _, s := range sets() {
		k := s.kernel()
		if err := nft.Delete(c, k, elements(without(g[s.name], want[s.name]))); err != nil {
			return err
		}
		if err := nft.Add(c, k, elements(without(want[s.name], g[s.name]))); err != nil {
			return err
		}
	}
	return nil
}

// without returns the keys of a sorted list that are not in another.
func without(keys, others [][]byte) (out [][]byte) {
	for _, k := range keys {
		if _, found := slices.BinarySearchFunc(others, k, slices.Compare); !found {
			out = append(out, k)
		}
	}
	return out
}

func elements(keys [][]byte) []nftables.SetElement {
	out := make([]nftables.SetElement, len(keys))
	for i, k := range keys {
		out[i].Key = k
	}
	return out
}

// tableIntact reads the table only if anyone changed any rules since it was found
// right.
func (o *Overlay) tableIntact() (bool, error) {
	if o.table == nil {
		return false, nil
	}
	c, err := nft.Dial("")
	if err != nil {
		return false, err
	}
	defer c.CloseLasting()
	generation, err := c.Generation()
	if err != nil || generation == o.generation {
		return err == nil, err
	}
	have, err := nft.Dump(c.Conn, layout())
	if err != nil {
		return false, err
	}
	var want strings.Builder
	o.table.render(&want)
	if have != want.String() {
		return false, nil
	}
	o.generation = generation
	return true, nil
}

func equalKeys(a, b [][]byte) bool { return slices.EqualFunc(a, b, slices.Equal) }

func (o *Overlay) deleteTable() error {
	c, err := nft.Connect("")
	if err != nil {
		return err
	}
	c.AddTable(table())
	c.DelTable(table())
	o.table = nil
	return errors.Join(c.Flush(), c.CloseLasting())
}
