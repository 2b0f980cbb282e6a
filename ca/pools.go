package ca

import (
	"net/netip"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// A subnet has room for 5 tasks at least, and is not larger than 10.0.0.0/8.
	shortestMask, longestMask = 8, 29
	// longestPool can still hold a subnet for the routing mesh.
	longestPool = 24
)

// checkPools refuses address pools that subnets cannot come from.
func checkPools(spec *pb.ClusterSpec) error {
	mask := int(spec.SubnetMaskLength)
	if mask < shortestMask || mask > longestMask {
		return fault.New(fault.Invalid, "bad length %d of subnets: it must be from %d to %d", mask, shortestMask, longestMask).
			WithTry("--default-addr-pool-mask-length 20")
	}
	var pools []netip.Prefix
	for _, text := range spec.DefaultAddressPools {
		pool, err := netip.ParsePrefix(text)
		switch {
		case err != nil || !pool.Addr().Is4() || pool != pool.Masked():
			return fault.New(fault.Invalid, "bad address pool %q: it must be an IPv4 subnet", text).
				WithTry("--default-addr-pool 10.0.0.0/8")
		case pool.Bits() > min(mask, longestPool):
			return fault.New(fault.Invalid, "bad address pool %v: subnets of length %d and the routing mesh's, of %d, must fit in",
				pool, mask, longestPool).WithTry("--default-addr-pool 10.0.0.0/8")
		}
		for _, other := range pools {
			if other.Overlaps(pool) {
				return fault.New(fault.Invalid, "bad address pools: %v and %v overlap", other, pool)
			}
		}
		pools = append(pools, pool)
	}
	return nil
}
