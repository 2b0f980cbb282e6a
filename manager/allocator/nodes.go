package allocator

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// number gives nodes their numbers in the routing mesh: the lowest free ones.
func (b *book) number(view store.View, emit func(*pb.Command)) {
	limit := numbers(view.Ingress().GetAllocation())
	again := b.renumber
	b.renumber = false // the ingress network's allocation, or an outcome, sets it again
	if !again || limit == 0 {
		return
	}
	if o := view.Ingress(); len(b.nodes) > int(limit) || o.GetAllocation().GetProblem() != "" {
		b.dirtyNetworks[o.Id] = true // which says how many are without
	}
	used := make(map[uint32]bool, len(b.nodes))
	var without []string
	for _, id := range slices.Sorted(maps.Keys(b.nodes)) {
		if n := b.nodes[id]; n.number != 0 && n.number <= limit {
			used[n.number] = true
		} else {
			without = append(without, id)
		}
	}
	next := uint32(1)
	for _, id := range without {
		for used[next] {
			next++
		}
		n := b.nodes[id]
		if next > limit {
			break
		}
		if b.flying[object{pb.Kind_KIND_NODE, id}] {
			continue
		}
		n.number, used[next], b.flying[object{pb.Kind_KIND_NODE, id}] = next, true, true
		emit(&pb.Command{Kind: &pb.Command_AllocateNode{AllocateNode: &pb.AllocateNode{Id: id, MeshNumber: next}}})
	}
}

// numbers is how many nodes the ingress network has numbers for.
func numbers(a *pb.NetworkAllocation) uint32 {
	for _, pool := range a.GetPools() {
		if p, err := netip.ParsePrefix(pool.GetSubnet()); err == nil && p.Addr().Is4() {
			return 1<<((32-p.Bits())/2) - 2
		}
	}
	return 0
}

// crowded is whether the ingress network has too few numbers.
func (b *book) crowded(o *pb.Network, a *pb.NetworkAllocation) string {
	limit := numbers(a)
	if !o.GetSpec().GetIngress() || len(b.nodes) <= int(limit) {
		return ""
	}
	return fmt.Sprintf("published ports do not reach %d of %d nodes: the subnet %s has numbers for %d",
		len(b.nodes)-int(limit), len(b.nodes), a.Pools[0].Subnet, limit)
}

const (
	// usualKeyLife is how long a network key is used before the next one is made,
	// unless the cluster says otherwise; two are kept, so that nodes that have not
	// heard of the newest still connect.
	usualKeyLife = 12 * time.Hour
	keysKept     = 2
)

func keyLife(c *pb.Cluster) time.Duration {
	if p := c.GetSpec().GetNetworkKeyPeriod().AsDuration(); p > 0 {
		return p
	}
	return usualKeyLife
}

// rotate makes a network key when the newest is too old, or there is none.
func (b *book) rotate(view store.View, now time.Time, random func([]byte), emit func(*pb.Command)) {
	again := b.rekey
	b.rekey = false
	if !again && now.Before(b.nextKey) || b.flying[object{kind: pb.Kind_KIND_CLUSTER}] {
		return
	}
	cluster := view.Cluster()
	b.nextKey = now.Add(keyLife(cluster))
	encrypted := func(n *network) bool { return n.object.GetSpec().GetEncrypted() }
	if cluster == nil || !slices.ContainsFunc(slices.Collect(maps.Values(b.networks)), encrypted) {
		return
	}
	keys := cluster.NetworkKeys
	next := &pb.NetworkKey{Epoch: 1, Key: make([]byte, 32), CreatedAt: timestamppb.New(now)}
	if len(keys) > 0 {
		newest := keys[len(keys)-1]
		if due := newest.GetCreatedAt().AsTime().Add(keyLife(cluster)); due.After(now) {
			b.nextKey = due
			return
		}
		next.Epoch = newest.Epoch + 1
	}
	random(next.Key)
	kept := append(slices.Clone(keys[max(0, len(keys)+1-keysKept):]), next)
	b.flying[object{kind: pb.Kind_KIND_CLUSTER}] = true
	emit(&pb.Command{Kind: &pb.Command_SetNetworkKeys{SetNetworkKeys: &pb.SetNetworkKeys{Keys: kept}}})
}
