package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (c *cli) nodeCommand() *cobra.Command {
	return c.group("node", "Manage the cluster's nodes", c.nodeList(), c.nodeInspect(), c.nodePs(), c.nodeEvents(), c.nodeUpdate(),
		c.nodeRole("promote", "Make nodes managers", pb.NodeRole_NODE_ROLE_MANAGER),
		c.nodeRole("demote", "Make managers workers", pb.NodeRole_NODE_ROLE_WORKER), c.nodeRemove())
}

func (c *cli) nodeList() *cobra.Command {
	left := map[string]int{}
	return listCommand(c, listed[*pb.Node]{
		short: "List nodes", kinds: []pb.Kind{pb.Kind_KIND_NODE},
		columns: func(ctx context.Context, a *api) print.List[*pb.Node] { return nodeColumns(a.self(ctx), left) },
		rows: func(ctx context.Context, a *api, filters []*pb.Filter) ([]*pb.Node, error) {
			resp, err := a.control.ListNodes(ctx, &pb.ListRequest{Filters: filters})
			if err != nil {
				return nil, err
			}
			return resp.GetNodes(), a.countLeft(ctx, resp.Nodes, left)
		},
		name: hostname,
	})
}

// self is the id of the node on the other side of the socket, empty if unknown.
func (a *api) self(ctx context.Context) string {
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := a.local.Info(ctx, &pb.InfoRequest{})
	if err != nil {
		return ""
	}
	return info.NodeId
}

func hostname(n *pb.Node) string { return n.GetDescription().GetHostname() }

func nodeColumns(self string, left map[string]int) print.List[*pb.Node] {
	mine := func(n *pb.Node) bool { return self != "" && n.Id == self }
	return print.List[*pb.Node]{
		ID:     (*pb.Node).GetId,
		Object: func(n *pb.Node) proto.Message { return n },
		Columns: []print.Column[*pb.Node]{
			{Field: "ID", Value: func(n *pb.Node, _ bool) string { return n.Id }},
			{Field: "MarkedID", Header: "ID", Value: func(n *pb.Node, _ bool) string {
				if mine(n) {
					return n.Id + " *"
				}
				return n.Id
			}},
			{Field: "Self", Value: func(n *pb.Node, _ bool) string { return fmt.Sprint(mine(n)) }},
			{Field: "Hostname", Header: "HOSTNAME", Value: func(n *pb.Node, _ bool) string { return hostname(n) }},
			{Field: "Status", Header: "STATUS", Value: func(n *pb.Node, _ bool) string { return nodeState(n) }},
			{Field: "Availability", Header: "AVAILABILITY", Value: func(n *pb.Node, _ bool) string { return title(availabilityName(n.GetSpec().GetAvailability())) }},
			{Field: "ManagerStatus", Header: "MANAGER STATUS", Value: func(n *pb.Node, _ bool) string { return managerStatus(n) }},
			{Field: "EngineVersion", Header: "ENGINE VERSION", Value: func(n *pb.Node, _ bool) string { return n.GetDescription().GetEngineVersion() }},
			drainColumn(left),
			{Field: "Addr", Header: "ADDRESS", Wide: true, Value: func(n *pb.Node, _ bool) string { return n.GetStatus().GetAddr() }},
			{Field: "Labels", Header: "LABELS", Wide: true, Value: func(n *pb.Node, _ bool) string { return labelText(n.GetSpec().GetLabels()) }},
			{Field: "Message", Header: "MESSAGE", Wide: true, Value: func(n *pb.Node, _ bool) string { return n.GetStatus().GetMessage() }},
		},
	}
}

func nodeState(n *pb.Node) string {
	return title(enumName(n.GetStatus().GetState().String(), "NODE_STATE_"))
}

func managerStatus(n *pb.Node) string {
	switch m := n.ManagerStatus; {
	case m == nil:
		return ""
	case m.Leader:
		return "Leader"
	case m.Reachable:
		return "Reachable"
	}
	return "Unreachable"
}

func availabilityName(a pb.NodeAvailability) string {
	return enumName(a.String(), "NODE_AVAILABILITY_")
}

func roleName(r pb.NodeRole) string { return enumName(r.String(), "NODE_ROLE_") }

// enumName is an enum value as users write it; unset ones are empty.
func enumName(value, prefix string) string {
	name := strings.ToLower(strings.TrimPrefix(value, prefix))
	if name == "unspecified" {
		return ""
	}
	return strings.ReplaceAll(name, "_", "-")
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func labelText(labels map[string]string) string {
	var parts []string
	for k, v := range labels {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func parseAvailability(s string) (pb.NodeAvailability, error) {
	switch s {
	case "active":
		return pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE, nil
	case "pause":
		return pb.NodeAvailability_NODE_AVAILABILITY_PAUSE, nil
	case "drain":
		return pb.NodeAvailability_NODE_AVAILABILITY_DRAIN, nil
	}
	return 0, fault.New(fault.Invalid, "invalid --availability %q: expected active, pause or drain", s)
}

// getNode finds a node; "self" is the one on the other side of the socket.
func (a *api) getNode(ctx context.Context, ref string) (*pb.Node, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if ref == "self" {
		info, err := a.local.Info(ctx, &pb.InfoRequest{})
		if err != nil {
			return nil, err
		}
		ref = info.NodeId
	}
	return a.control.GetNode(ctx, &pb.GetRequest{Ref: ref})
}

func (c *cli) nodeInspect() *cobra.Command {
	left := map[string][]*pb.Task{}
	return inspectCommand(c, inspected[*pb.Node]{
		what: "self|NODE", short: "Show nodes whole", names: hostnames,
		get: func(ctx context.Context, a *api, ref string) (*pb.Node, error) {
			n, err := a.getNode(ctx, ref)
			if err == nil && draining(n) {
				left[n.Id], err = a.tasksLeft(ctx, n)
			}
			return n, err
		},
		fields: func(n *pb.Node) any {
			return struct {
				*pb.Node
				ID string
			}{n, n.Id}
		},
		pretty: func(w io.Writer, n *pb.Node) {
			prettyNode(w, n)
			prettyDrain(w, n, left[n.Id])
		},
	})
}

func prettyNode(w io.Writer, n *pb.Node) {
	p := prettyPrinter{w}
	d := n.GetDescription()
	p.line(0, "ID", n.Id)
	p.labels(0, n.GetSpec().GetLabels())
	p.line(0, "Hostname", d.GetHostname())
	p.line(0, "Joined at", timeText(n.GetMeta().GetCreatedAt()))
	p.line(0, "Status", "")
	p.line(1, "State", nodeState(n))
	p.field(1, "Message", n.GetStatus().GetMessage())
	p.line(1, "Availability", title(availabilityName(n.GetSpec().GetAvailability())))
	p.line(1, "Address", n.GetStatus().GetAddr())
	p.field(1, "Data Path Address", d.GetDataPathAddr())
	if m := n.ManagerStatus; m != nil {
		p.line(0, "Manager Status", "")
		p.line(1, "Address", m.Addr)
		p.line(1, "Raft Status", managerStatus(n))
	}
	p.line(0, "Platform", "")
	p.line(1, "Operating System", d.GetPlatform().GetOs())
	p.line(1, "Architecture", d.GetPlatform().GetArchitecture())
	p.line(0, "Resources", "")
	p.line(1, "CPUs", cpuText(d.GetResources().GetNanoCpus()))
	p.line(1, "Memory", units.BytesSize(float64(d.GetResources().GetMemoryBytes())))
	p.field(1, "Generic Resources", genericText(d.GetResources().GetGeneric()))
	p.line(0, "Engine Version", d.GetEngineVersion())
	p.field(0, "Containerd Version", d.GetRuntimeVersion())
	if len(d.GetEngineLabels()) > 0 {
		p.line(0, "Engine Labels", labelText(d.EngineLabels))
	}
}

func (c *cli) nodePs() *cobra.Command {
	var o output
	var noResolve bool
	cmd := c.streaming("ps [FLAGS] [NODE...]", "List the tasks of nodes, this one by default", atLeast(0), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if len(args) == 0 {
			args = []string{"self"}
		}
		var nodes []string
		missing := each(args, func(ref string) error {
			n, err := a.getNode(ctx, ref)
			if err == nil {
				nodes = append(nodes, n.Id)
			}
			return err
		})
		if len(nodes) == 0 {
			return missing
		}
		return errors.Join(c.showTasks(ctx, &o, &pb.ListTasksRequest{Nodes: nodes}, noResolve), missing)
	})
	o.listFlags(cmd)
	o.filterFlag(cmd)
	o.watchFlag(cmd)
	cmd.Flags().BoolVar(&noResolve, "no-resolve", false, "ids instead of names")
	cmd.ValidArgsFunction = c.completing(hostnames)
	return cmd
}

// changeNode changes a node's spec and reports whether there was a need to.
func (a *api) changeNode(ctx context.Context, ref string, change func(*pb.NodeSpec) error) (changed bool, err error) {
	err = retryStale(func() error {
		n, err := a.getNode(ctx, ref)
		if err != nil {
			return err
		}
		next := proto.Clone(n.Spec).(*pb.NodeSpec)
		if err := change(next); err != nil {
			return err
		}
		if changed = !proto.Equal(next, n.Spec); !changed {
			return nil
		}
		_, err = a.control.UpdateNode(ctx, &pb.UpdateNodeRequest{Ref: n.Id, IfVersion: n.Meta.GetVersion(), Spec: next})
		return err
	})
	return changed, err
}

func parseRole(s string) (pb.NodeRole, error) {
	switch s {
	case "worker":
		return pb.NodeRole_NODE_ROLE_WORKER, nil
	case "manager":
		return pb.NodeRole_NODE_ROLE_MANAGER, nil
	}
	return 0, fault.New(fault.Invalid, "invalid --role %q: expected worker or manager", s)
}

// changeLabels removes, then adds.
func changeLabels(labels *map[string]string, remove, add []string) error {
	for _, key := range remove {
		delete(*labels, key)
	}
	for _, pair := range add {
		if err := spec.AddLabel(labels, pair); err != nil {
			return fault.New(fault.Invalid, "invalid label %q: %w", pair, err)
		}
	}
	return nil
}

func (c *cli) nodeRole(verb, short string, role pb.NodeRole) *cobra.Command {
	cmd := c.command(verb+" NODE...", short, atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		return each(args, func(ref string) error {
			changed, err := a.changeNode(ctx, ref, func(s *pb.NodeSpec) error { s.Role = role; return nil })
			switch {
			case err != nil:
				return err
			case !changed:
				fmt.Fprintf(c.stdout, "Node %s is already a %s.\n", ref, roleName(role))
			case role == pb.NodeRole_NODE_ROLE_MANAGER:
				fmt.Fprintf(c.stdout, "Node %s promoted to a manager in the swarm.\n", ref)
			default:
				fmt.Fprintf(c.stdout, "Manager %s demoted in the swarm.\n", ref)
			}
			return nil
		})
	})
	cmd.ValidArgsFunction = c.completing(hostnames)
	return cmd
}

func (c *cli) nodeRemove() *cobra.Command {
	var force bool
	cmd := c.removeCommand(removed{
		what: "[FLAGS] NODE", short: "Forget nodes", names: hostnames,
		remove: func(ctx context.Context, a *api, ref string) error {
			_, err := a.control.RemoveNode(ctx, &pb.RemoveNodeRequest{Ref: ref, Force: force})
			return err
		},
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if the node is up")
	return cmd
}
