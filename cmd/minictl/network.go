package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (c *cli) networkCommand() *cobra.Command {
	return c.group("network", "Manage networks", c.networkCreate(), c.networkList(), c.networkInspect(), c.networkRemove(),
		c.networkPrune(), c.networkCheck())
}

func (c *cli) networkCreate() *cobra.Command {
	var flags *spec.NetworkFlags
	cmd := c.command("create [FLAGS] NETWORK", "Make a network", exactly(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		s, err := flags.Create(args[0])
		if err != nil {
			return err
		}
		resp, err := a.control.CreateNetwork(ctx, &pb.CreateNetworkRequest{Spec: s})
		if err != nil {
			return err
		}
		c.warn(resp.Warnings)
		fmt.Fprintln(c.stdout, resp.GetNetwork().GetId())
		return nil
	})
	flags = spec.CreateNetworkFlags(cmd.Flags())
	return cmd
}

func (c *cli) networkList() *cobra.Command {
	return listCommand(c, listed[*pb.Network]{
		short: "List networks", kinds: []pb.Kind{pb.Kind_KIND_NETWORK},
		columns: func(context.Context, *api) print.List[*pb.Network] { return c.networkColumns() },
		rows: func(ctx context.Context, a *api, filters []*pb.Filter) ([]*pb.Network, error) {
			resp, err := a.control.ListNetworks(ctx, &pb.ListRequest{Filters: filters})
			return resp.GetNetworks(), err
		},
		name: networkName,
	})
}

// networkScope is Swarm's word for a network of all nodes.
const networkScope = "swarm"

func (c *cli) networkColumns() print.List[*pb.Network] {
	yes := func(is func(*pb.NetworkSpec) bool) func(*pb.Network, bool) string {
		return func(n *pb.Network, _ bool) string { return fmt.Sprint(is(n.GetSpec())) }
	}
	return print.List[*pb.Network]{
		ID:     (*pb.Network).GetId,
		Object: func(n *pb.Network) proto.Message { return n },
		Columns: []print.Column[*pb.Network]{
			{Field: "ID", Header: "NETWORK ID", Value: func(n *pb.Network, whole bool) string { return print.ID(n.Id, whole) }},
			{Field: "Name", Header: "NAME", Value: func(n *pb.Network, _ bool) string { return networkName(n) }},
			{Field: "Driver", Header: "DRIVER", Value: func(n *pb.Network, _ bool) string { return driverName(n) }},
			{Field: "Scope", Header: "SCOPE", Value: func(*pb.Network, bool) string { return networkScope }},
			{Field: "Subnet", Header: "SUBNET", Wide: true, Value: func(n *pb.Network, _ bool) string { return subnetText(n) }},
			{Field: "VNI", Header: "VNI", Wide: true, Value: func(n *pb.Network, _ bool) string { return vniText(n) }},
			{Field: "Encrypted", Header: "ENCRYPTED", Wide: true, Value: yes((*pb.NetworkSpec).GetEncrypted)},
			{Field: "Problem", Header: "PROBLEM", Wide: true, Value: func(n *pb.Network, _ bool) string { return n.GetAllocation().GetProblem() }},
			{Field: "Internal", Value: yes((*pb.NetworkSpec).GetInternal)},
			{Field: "IPv6", Value: yes((*pb.NetworkSpec).GetIpv6)},
			{Field: "Ingress", Value: yes((*pb.NetworkSpec).GetIngress)},
			{Field: "Attachable", Value: yes((*pb.NetworkSpec).GetAttachable)},
			{Field: "CreatedAt", Value: func(n *pb.Network, _ bool) string { return print.Ago(n.GetMeta().GetCreatedAt(), c.now()) }},
			{Field: "Labels", Value: func(n *pb.Network, _ bool) string { return labelText(n.GetSpec().GetLabels()) }},
		},
	}
}

func networkName(n *pb.Network) string { return n.GetSpec().GetName() }

func driverName(n *pb.Network) string {
	return cmp.Or(enumName(n.GetSpec().GetDriver().String(), "DRIVER_"), "overlay")
}

// networkPools are the subnets that a network has, or is to get.
func networkPools(n *pb.Network) []*pb.AddressPool {
	if pools := n.GetAllocation().GetPools(); len(pools) > 0 {
		return pools
	}
	return n.GetSpec().GetPools()
}

func subnetText(n *pb.Network) string {
	return joinComma(namesOf(networkPools(n), (*pb.AddressPool).GetSubnet))
}

func vniText(n *pb.Network) string {
	if vni := n.GetAllocation().GetVni(); vni != 0 {
		return fmt.Sprint(vni)
	}
	return ""
}

func (c *cli) networkInspect() *cobra.Command {
	var verbose bool
	cmd := inspectCommand(c, inspected[proto.Message]{
		what: "NETWORK", short: "Show networks whole", names: networkNames,
		get: func(ctx context.Context, a *api, ref string) (proto.Message, error) {
			if verbose {
				return a.control.DescribeNetwork(ctx, &pb.GetRequest{Ref: ref})
			}
			return a.control.GetNetwork(ctx, &pb.GetRequest{Ref: ref})
		},
		fields: networkFields,
		pretty: prettyNetwork,
	})
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "with services, tasks and nodes")
	return cmd
}

// networkFields has the same names with --verbose and without.
func networkFields(m proto.Message) any {
	n, ok := m.(*pb.Network)
	if !ok {
		n = m.(*pb.NetworkDetail).GetNetwork()
	}
	detail, _ := m.(*pb.NetworkDetail)
	return struct {
		*pb.Network
		ID       string
		Services []*pb.NetworkMember
		Nodes    []*pb.NetworkNode
	}{n, n.GetId(), detail.GetServices(), detail.GetNodes()}
}

func (c *cli) networkRemove() *cobra.Command {
	return c.removeCommand(removed{
		what: "NETWORK", short: "Remove networks", names: networkNames,
		remove: func(ctx context.Context, a *api, ref string) error {
			_, err := a.control.RemoveNetwork(ctx, &pb.RemoveRequest{Ref: ref})
			return err
		},
	})
}

func (c *cli) networkPrune() *cobra.Command {
	var force bool
	var given []string
	cmd := c.streaming("prune [FLAGS]", "Remove all networks that nothing uses", exactly(0), func(ctx context.Context, _ []string) error {
		filters, err := parseFilters(given)
		if err != nil {
			return err
		}
		a, err := c.connect()
		if err != nil {
			return err
		}
		if !force {
			if err := c.confirm(ctx, "This will remove all networks that no service uses."); err != nil {
				return err
			}
		}
		ctx, cancel := bounded(ctx)
		defer cancel()
		resp, err := a.control.PruneNetworks(ctx, &pb.ListRequest{Filters: filters})
		if err != nil {
			return overdue(ctx, err)
		}
		if len(resp.Removed) > 0 {
			fmt.Fprintln(c.stdout, "Deleted Networks:")
		}
		for _, n := range resp.Removed {
			fmt.Fprintln(c.stdout, networkName(n))
		}
		return nil
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask first")
	cmd.Flags().StringArrayVar(&given, "filter", nil, "remove only what matches KEY=VALUE")
	return cmd
}

// confirm asks for a yes on stdin.
func (c *cli) confirm(ctx context.Context, warning string) error {
	fmt.Fprintf(c.stderr, "WARNING! %s\nAre you sure you want to continue? [y/N] ", warning)
	answer := make(chan string, 1)
	go func() { // ends with its stdin, as nobody can take a read back
		line, _ := bufio.NewReader(io.LimitReader(c.stdin, 64)).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case text := <-answer:
		if _, typed := terminal(c.stdin); !typed {
			fmt.Fprintln(c.stderr)
		}
		if !strings.EqualFold(text, "y") && !strings.EqualFold(text, "yes") {
			return fault.New(fault.State, "nothing was removed: the answer was not y").WithTry("--force, to be asked nothing")
		}
		return nil
	}
}
