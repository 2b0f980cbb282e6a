package controlapi

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// CreateNetwork stores a network; the allocator then gives it what the spec
// leaves open.
func (s *Server) CreateNetwork(ctx context.Context, req *pb.CreateNetworkRequest) (*pb.CreateNetworkResponse, error) {
	view, spec := s.cfg.State.View(), normalNetwork(req.GetSpec())
	if err := firstOf(checkNetwork(spec), checkClash(view, spec)); err != nil {
		return nil, prefixed(err, "create network %s", spec.GetName())
	}
	networkID := id.New()
	err := s.propose(ctx, &pb.Command{Kind: &pb.Command_CreateNetwork{CreateNetwork: &pb.CreateNetwork{Id: networkID, Spec: spec}}})
	if err != nil {
		return nil, err
	}
	return &pb.CreateNetworkResponse{
		Network:  s.cfg.State.View().Network(networkID),
		Warnings: networkWarnings(view, spec),
	}, nil
}

// ListNetworks returns the networks that pass the filters.
func (s *Server) ListNetworks(_ context.Context, req *pb.ListRequest) (*pb.ListNetworksResponse, error) {
	view := s.cfg.State.View()
	passes, err := networkFilters(view).compile(req.GetFilters())
	if err != nil {
		return nil, err
	}
	answer := &pb.ListNetworksResponse{}
	for n := range view.Networks() {
		if passes(n) {
			answer.Networks = append(answer.Networks, n)
		}
	}
	return answer, nil
}

// GetNetwork finds a network by id, name or id prefix.
func (s *Server) GetNetwork(_ context.Context, req *pb.GetRequest) (*pb.Network, error) {
	return findNetwork(s.cfg.State.View(), req.GetRef())
}

// RemoveNetwork removes a network that nothing uses; the store refuses otherwise.
func (s *Server) RemoveNetwork(ctx context.Context, req *pb.RemoveRequest) (*pb.RemoveResponse, error) {
	n, err := findNetwork(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	if err := s.propose(ctx, removeNetwork(n)); err != nil {
		return nil, err
	}
	return &pb.RemoveResponse{Id: n.Id}, nil
}

func removeNetwork(n *pb.Network) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RemoveNetwork{RemoveNetwork: &pb.RemoveNetwork{Id: n.Id}}}
}

// PruneNetworks removes the networks that nothing uses and that pass the
// filters; the ingress network stays. Those that came into use meanwhile stay too.
func (s *Server) PruneNetworks(ctx context.Context, req *pb.ListRequest) (*pb.PruneNetworksResponse, error) {
	passes, err := pruneFilters(time.Now()).compile(req.GetFilters())
	if err != nil {
		return nil, err
	}
	view := s.cfg.State.View()
	var unused []*pb.Network
	var cmds []*pb.Command
	for n := range view.Networks() {
		if passes(n) && dangling(view, n) {
			unused, cmds = append(unused, n), append(cmds, removeNetwork(n))
		}
	}
	answer := &pb.PruneNetworksResponse{}
	if len(cmds) == 0 {
		return answer, nil
	}
	refused, err := s.proposeAll(ctx, cmds...)
	if err != nil {
		return nil, err
	}
	for i, n := range unused {
		switch err := refused[i]; {
		case err == nil:
			answer.Removed = append(answer.Removed, n)
		case !fault.Is(err, fault.InUse) && !fault.Is(err, fault.NotFound):
			return nil, err
		}
	}
	return answer, nil
}

// dangling tells whether nothing uses a network: no service, and no task that
// still has an address there.
func dangling(view store.View, n *pb.Network) bool {
	if n.GetSpec().GetIngress() {
		return false // the routing mesh's
	}
	for range view.ServicesByNetwork(n.Id) {
		return false
	}
	for range view.Addresses(n.Id) {
		return false
	}
	return true
}

// attachment returns how a task spec is on a network, nil if it is not.
func attachment(spec *pb.TaskSpec, network string) *pb.NetworkAttachment {
	i := slices.IndexFunc(spec.GetNetworks(), func(a *pb.NetworkAttachment) bool { return a.NetworkId == network })
	if i < 0 {
		return nil
	}
	return spec.Networks[i]
}

func networkFilters(view store.View) filters[*pb.Network] {
	always := func(*pb.Network) bool { return true }
	never := func(*pb.Network) bool { return false }
	driver := func(d pb.NetworkSpec_Driver) test[*pb.Network] {
		return func(n *pb.Network) bool { return n.GetSpec().GetDriver() == d }
	}
	return filters[*pb.Network]{
		"id":    prefixOf((*pb.Network).GetId),
		"name":  prefixOf(func(n *pb.Network) string { return n.GetSpec().GetName() }),
		"label": labelOf(networkLabels),
		"driver": choice("driver", map[string]test[*pb.Network]{
			"overlay": driver(pb.NetworkSpec_DRIVER_OVERLAY),
			"bridge":  driver(pb.NetworkSpec_DRIVER_BRIDGE),
		}),
		// The routing mesh's comes with the cluster.
		"type": choice("type", map[string]test[*pb.Network]{
			"builtin": func(n *pb.Network) bool { return n.GetSpec().GetIngress() },
			"custom":  func(n *pb.Network) bool { return !n.GetSpec().GetIngress() },
		}),
		// Every network is the whole cluster's.
		"scope": choice("scope", map[string]test[*pb.Network]{"swarm": always, "local": never, "global": never}),
		"dangling": func(value string) (test[*pb.Network], error) {
			wanted, err := strconv.ParseBool(value)
			if err != nil {
				return nil, invalid("filter dangling=%s: the value must be true or false", value)
			}
			return func(n *pb.Network) bool { return dangling(view, n) == wanted }, nil
		},
	}
}

// pruneFilters are those of prune.
func pruneFilters(now time.Time) filters[*pb.Network] {
	return filters[*pb.Network]{
		"label": labelOf(networkLabels),
		"until": func(value string) (test[*pb.Network], error) {
			until, err := parseUntil(value, now)
			return func(n *pb.Network) bool { return n.GetMeta().GetCreatedAt().AsTime().Before(until) }, err
		},
	}
}

func networkLabels(n *pb.Network) map[string]string { return n.GetSpec().GetLabels() }

// parseUntil understands how long ago, seconds since 1970, and dates.
func parseUntil(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, invalid("filter until=%s: it is neither a duration nor a time", text).
		WithTry("until=24h, or until=2026-01-31T12:00:00Z")
}
