package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// controlPort is where managers listen unless told otherwise.
const controlPort = "2377"

func (c *cli) swarmCommand() *cobra.Command {
	return c.group("swarm", "Manage the cluster",
		c.swarmInit(), c.swarmJoin(), c.swarmJoinToken(), c.swarmLeave(), c.swarmCA(), c.swarmUpdate())
}

// clusterFlags are the cluster's settings on init and update.
type clusterFlags struct {
	certExpiry, heartbeat, keys     time.Duration
	orphans                         time.Duration
	history                         int64
	snapshotInterval, snapshotsKept uint64
	strategy                        string
	rebalance                       bool
}

func (f *clusterFlags) register(cmd *cobra.Command) {
	set := cmd.Flags()
	set.DurationVar(&f.certExpiry, "cert-expiry", 90*24*time.Hour, "life of node certificates")
	set.DurationVar(&f.heartbeat, "dispatcher-heartbeat", 2*time.Second, "how often nodes report")
	set.Int64Var(&f.history, "task-history-limit", 5, "finished tasks kept per slot")
	set.Uint64Var(&f.snapshotInterval, "snapshot-interval", 10000, "raft log entries between snapshots")
	set.Uint64Var(&f.snapshotsKept, "max-snapshots", 0, "older snapshots kept")
	set.StringVar(&f.strategy, "placement-strategy", "spread", "where new tasks go: spread, to the node with the fewest, or binpack, to the fullest that has room")
	set.DurationVar(&f.keys, "network-key-period", 12*time.Hour, "how long a key of encrypted networks is used, at least 10s")
	set.DurationVar(&f.orphans, "orphan-time", 24*time.Hour, "how long a node may be down before its tasks are given up, with the addresses that they hold; at least 1s")
	set.BoolVar(&f.rebalance, "rebalance-on-join", false, "spread services anew when a node joins, as service rebalance does")
	cmd.RegisterFlagCompletionFunc("placement-strategy", cobra.FixedCompletions([]string{"spread", "binpack"}, cobra.ShellCompDirectiveNoFileComp))
}

// check refuses bad values before anything is done.
func (f *clusterFlags) check() error {
	if f.orphans < time.Second {
		return fault.New(fault.Invalid, "invalid --orphan-time %v: expected at least 1s", f.orphans)
	}
	_, err := parseStrategy(f.strategy)
	return err
}

func parseStrategy(s string) (pb.PlacementStrategy, error) {
	switch s {
	case "spread":
		return pb.PlacementStrategy_PLACEMENT_STRATEGY_SPREAD, nil
	case "binpack":
		return pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK, nil
	}
	return 0, fault.New(fault.Invalid, "invalid --placement-strategy %q: expected spread or binpack", s)
}

// strategyName is a strategy as users write it; an unset one is spread.
func strategyName(s pb.PlacementStrategy) string {
	return cmp.Or(enumName(s.String(), "PLACEMENT_STRATEGY_"), "spread")
}

// apply sets what was given; check has looked at it.
func (f *clusterFlags) apply(cmd *cobra.Command, s *pb.ClusterSpec) {
	given := cmd.Flags().Changed
	if given("cert-expiry") {
		s.CertExpiry = durationpb.New(f.certExpiry)
	}
	if given("dispatcher-heartbeat") {
		s.HeartbeatPeriod = durationpb.New(f.heartbeat)
	}
	if given("network-key-period") {
		s.NetworkKeyPeriod = durationpb.New(f.keys)
	}
	if given("orphan-time") {
		s.OrphanTime = durationpb.New(f.orphans)
	}
	if given("task-history-limit") {
		s.TaskHistoryLimit = f.history
	}
	if given("snapshot-interval") {
		s.SnapshotInterval = f.snapshotInterval
	}
	if given("max-snapshots") {
		s.MaxSnapshots = f.snapshotsKept
	}
	if given("rebalance-on-join") {
		s.RebalanceOnJoin = f.rebalance
	}
	if given("placement-strategy") {
		s.PlacementStrategy, _ = parseStrategy(f.strategy)
	}
}

// defaults are the settings of a new cluster.
func (f *clusterFlags) defaults() *pb.ClusterSpec {
	strategy, _ := parseStrategy(f.strategy)
	return &pb.ClusterSpec{PlacementStrategy: strategy, RebalanceOnJoin: f.rebalance, Name: "default", CertExpiry: durationpb.New(f.certExpiry), HeartbeatPeriod: durationpb.New(f.heartbeat), NetworkKeyPeriod: durationpb.New(f.keys), OrphanTime: durationpb.New(f.orphans),
		TaskHistoryLimit: f.history, SnapshotInterval: f.snapshotInterval, MaxSnapshots: f.snapshotsKept}
}

// networkFlags are the cluster's settings that cannot change later.
type networkFlags struct {
	pools []string
	mask  uint32
	port  uint32
}

// Swarm's own are 24 bits for a subnet, and the same ports.
const (
	subnetBits                          = 20
	mostSubnetBits                      = 29
	leastDataPathPort, mostDataPathPort = 1024, 49151
)

func (f *networkFlags) register(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringSliceVar(&f.pools, "default-addr-pool", nil, "where the subnets of networks come from, in CIDR form (default 10.0.0.0/8)")
	set.Uint32Var(&f.mask, "default-addr-pool-mask-length", subnetBits, "length of the subnets' prefix")
	set.Uint32Var(&f.port, "data-path-port", 0, "UDP port of the overlays' traffic (default: the node's --data-path-port, 4789)")
}

// apply sets what was given; where nothing was, the node knows what is usual.
func (f *networkFlags) apply(cmd *cobra.Command, s *pb.ClusterSpec) error {
	if f.port != 0 && (f.port < leastDataPathPort || f.port > mostDataPathPort) {
		return fault.New(fault.Invalid, "invalid --data-path-port %d: expected one from %d to %d", f.port, leastDataPathPort, mostDataPathPort)
	}
	if f.mask < 1 || f.mask > mostSubnetBits {
		return fault.New(fault.Invalid, "invalid --default-addr-pool-mask-length %d: expected one from 1 to %d", f.mask, mostSubnetBits)
	}
	for _, text := range f.pools {
		pool, err := spec.ParseSubnet(text)
		switch {
		case err != nil:
			return fault.New(fault.Invalid, "invalid --default-addr-pool %q: %w", text, err)
		case !pool.Addr().Is4():
			return fault.New(fault.Invalid, "invalid --default-addr-pool %q: only IPv4 subnets come from a pool", text)
		case pool.Bits() > int(f.mask):
			return fault.New(fault.Invalid, "invalid --default-addr-pool %q: it is smaller than one subnet of length %d", text, f.mask).
				WithTry("--default-addr-pool-mask-length %d", min(pool.Bits()+4, mostSubnetBits))
		}
	}
	s.DefaultAddressPools, s.DataPathPort = f.pools, f.port
	if cmd.Flags().Changed("default-addr-pool-mask-length") {
		s.SubnetMaskLength = f.mask
	}
	return nil
}

// addressFlags are what init and join are told of this node.
func addressFlags(cmd *cobra.Command, advertise, listen, dataPath, availability *string) {
	f := cmd.Flags()
	f.StringVar(advertise, "advertise-addr", "", "address or interface[:port] that other nodes dial")
	f.StringVar(listen, "listen-addr", "", "address of the control port")
	f.StringVar(dataPath, "data-path-addr", "", "address or interface for the overlays' traffic (default: the advertised address)")
	f.StringVar(availability, "availability", "active", "active, pause or drain")
}

func (c *cli) swarmInit() *cobra.Command {
	var (
		req          pb.InitRequest
		settings     clusterFlags
		network      networkFlags
		availability string
		cmd          *cobra.Command
	)
	cmd = c.command("init [FLAGS]", "Make a cluster with this node as its first manager", exactly(0), func(ctx context.Context, _ []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if req.Availability, err = parseAvailability(availability); err != nil {
			return err
		}
		if err := settings.check(); err != nil {
			return err
		}
		req.Spec = settings.defaults()
		if err := network.apply(cmd, req.Spec); err != nil {
			return err
		}
		resp, err := a.local.Init(ctx, &req)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "Swarm initialized: current node (%s) is now a manager.\n\n", resp.NodeId)
		c.printJoin("worker", resp.WorkerToken, resp.Addr)
		fmt.Fprintln(c.stdout, "To add a manager to this swarm, run 'minictl swarm join-token manager' and follow the instructions.")
		return nil
	})
	addressFlags(cmd, &req.AdvertiseAddr, &req.ListenAddr, &req.DataPathAddr, &availability)
	cmd.Flags().BoolVar(&req.ForceNewCluster, "force-new-cluster", false, "make a cluster of one from this manager's state")
	settings.register(cmd)
	network.register(cmd)
	return cmd
}

// printJoin prints the command that adds a node.
func (c *cli) printJoin(role, token, addr string) {
	fmt.Fprintf(c.stdout, "To add a %s to this swarm, run the following command:\n\n    minictl swarm join --token %s %s\n\n", role, token, addr)
}

func (c *cli) swarmJoin() *cobra.Command {
	var (
		req          pb.JoinClusterRequest
		availability string
	)
	cmd := c.command("join [FLAGS] HOST[:PORT]...", "Add this node to a cluster", atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if req.Availability, err = parseAvailability(availability); err != nil {
			return err
		}
		for _, addr := range args {
			req.Addrs = append(req.Addrs, withPort(addr))
		}
		resp, err := a.local.JoinCluster(ctx, &req)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "This node joined a swarm as a %s.\n", roleName(resp.Role))
		return nil
	})
	addressFlags(cmd, &req.AdvertiseAddr, &req.ListenAddr, &req.DataPathAddr, &availability)
	cmd.Flags().StringVar(&req.Token, "token", "", "token that 'swarm join-token' shows")
	cmd.MarkFlagRequired("token")
	return cmd
}

// withPort adds the control port to an address without one.
func withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), controlPort)
}

func (c *cli) swarmJoinToken() *cobra.Command {
	var quiet, rotate bool
	cmd := c.command("join-token [FLAGS] worker|manager", "Show or replace the token that admits nodes", exactly(1), func(ctx context.Context, args []string) error {
		role := args[0]
		if role != "worker" && role != "manager" {
			return fault.New(fault.Invalid, "unknown role %q: expected worker or manager", role)
		}
		a, err := c.connect()
		if err != nil {
			return err
		}
		tokens, err := a.control.RotateJoinToken(ctx, &pb.RotateJoinTokenRequest{Worker: rotate && role == "worker", Manager: rotate && role == "manager"})
		if err != nil {
			return err
		}
		token := map[string]string{"worker": tokens.Worker, "manager": tokens.Manager}[role]
		if quiet {
			fmt.Fprintln(c.stdout, token)
			return nil
		}
		info, err := a.local.Info(ctx, &pb.InfoRequest{})
		if err != nil {
			return err
		}
		if rotate {
			fmt.Fprintf(c.stdout, "Successfully rotated %s join token.\n\n", role)
		}
		c.printJoin(role, token, info.Addr)
		return nil
	})
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the token")
	cmd.Flags().BoolVar(&rotate, "rotate", false, "replace the token; the old one admits no more nodes")
	cmd.ValidArgs = []string{"worker", "manager"}
	return cmd
}

func (c *cli) swarmLeave() *cobra.Command {
	var force bool
	cmd := c.command("leave [FLAGS]", "Take this node out of its cluster", exactly(0), func(ctx context.Context, _ []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if _, err := a.local.Leave(ctx, &pb.LeaveRequest{Force: force}); err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, "Node left the swarm.")
		return nil
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "leave even as a manager")
	return cmd
}

func (c *cli) swarmCA() *cobra.Command {
	return c.command("ca", "Show the cluster's root certificate", exactly(0), func(ctx context.Context, _ []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		cluster, err := a.control.GetCluster(ctx, &pb.GetClusterRequest{})
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, strings.TrimRight(string(cluster.RootCaCert), "\n"))
		return nil
	})
}

func (c *cli) swarmUpdate() *cobra.Command {
	var settings clusterFlags
	var cmd *cobra.Command
	cmd = c.command("update [FLAGS]", "Change the cluster's settings", exactly(0), func(ctx context.Context, _ []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if cmd.Flags().NFlag() == 0 {
			return fault.New(fault.Invalid, "nothing to update: no setting was given").WithTry("minictl swarm update --help")
		}
		if err := settings.check(); err != nil {
			return err
		}
		err = retryStale(func() error {
			cluster, err := a.control.GetCluster(ctx, &pb.GetClusterRequest{})
			if err != nil {
				return err
			}
			settings.apply(cmd, cluster.Spec)
			_, err = a.control.UpdateCluster(ctx, &pb.UpdateClusterRequest{IfVersion: cluster.Meta.GetVersion(), Spec: cluster.Spec})
			return err
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, "Swarm updated.")
		return nil
	})
	settings.register(cmd)
	return cmd
}

// staleRetries is how often a read-change-write starts over when somebody else
// was faster.
const staleRetries = 3

// retryStale carries out a read-change-write.
func retryStale(change func() error) error {
	var err error
	for range staleRetries {
		if err = change(); !fault.Is(err, fault.Stale) {
			return err
		}
	}
	return err
}
