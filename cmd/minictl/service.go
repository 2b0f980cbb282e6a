package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (c *cli) serviceCommand() *cobra.Command {
	return c.group("service", "Manage services", c.serviceCreate(), c.serviceList(), c.servicePs(), c.serviceInspect(),
		c.serviceUpdate(), c.serviceScale(), c.logsCommand("logs [FLAGS] SERVICE|TASK"), c.serviceRemove())
}

func (c *cli) serviceList() *cobra.Command {
	var o output
	cmd := c.streaming("ls [FLAGS]", "List services", exactly(0), func(ctx context.Context, _ []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		filters, err := parseFilters(o.filters)
		if err != nil {
			return err
		}
		kinds := []pb.Kind{pb.Kind_KIND_SERVICE, pb.Kind_KIND_TASK}
		return show(ctx, c, &o, listing[*pb.Service]{serviceColumns(), kinds, func(ctx context.Context) ([]*pb.Service, error) {
			resp, err := a.control.ListServices(ctx, &pb.ListRequest{Filters: filters})
			services := resp.GetServices()
			slices.SortStableFunc(services, func(a, b *pb.Service) int { return strings.Compare(a.GetSpec().GetName(), b.GetSpec().GetName()) })
			return services, err
		}})
	})
	cmd.Aliases = []string{"list"}
	o.listFlags(cmd)
	o.filterFlag(cmd)
	o.watchFlag(cmd)
	return cmd
}

func serviceColumns() print.List[*pb.Service] {
	type column = print.Column[*pb.Service]
	return print.List[*pb.Service]{
		ID:     (*pb.Service).GetId,
		Object: func(s *pb.Service) proto.Message { return s },
		Columns: []column{
			{Field: "ID", Header: "ID", Value: func(s *pb.Service, whole bool) string { return print.ID(s.Id, whole) }},
			{Field: "Name", Header: "NAME", Value: func(s *pb.Service, _ bool) string { return s.GetSpec().GetName() }},
			{Field: "Mode", Header: "MODE", Value: func(s *pb.Service, _ bool) string { return modeName(s.GetSpec()) }},
			{Field: "Replicas", Header: "REPLICAS", Value: func(s *pb.Service, _ bool) string { return replicasText(s) }},
			{Field: "Image", Header: "IMAGE", Value: func(s *pb.Service, whole bool) string {
				return print.Image(s.GetSpec().GetTask().GetContainer().GetImage(), whole)
			}},
			{Field: "Ports", Header: "PORTS", Value: func(s *pb.Service, _ bool) string { return publishedPorts(s.GetSpec().GetTask().GetPorts()) }},
			{Field: "Update", Header: "UPDATE", Wide: true, Value: func(s *pb.Service, _ bool) string {
				return enumName(s.GetUpdateStatus().GetState().String(), "UPDATE_STATE_")
			}},
			{Field: "Labels", Header: "LABELS", Wide: true, Value: func(s *pb.Service, _ bool) string { return labelText(s.GetSpec().GetLabels()) }},
		},
	}
}

func modeName(s *pb.ServiceSpec) string {
	if s.GetGlobal() != nil {
		return "global"
	}
	return "replicated"
}

func replicasText(s *pb.Service) string {
	if s.Removing {
		return fmt.Sprintf("%d/0 (removing)", s.GetStatus().GetRunning())
	}
	text := fmt.Sprintf("%d/%d", s.GetStatus().GetRunning(), s.GetStatus().GetDesired())
	if most := s.GetSpec().GetTask().GetPlacement().GetMaxReplicasPerNode(); most > 0 {
		text += fmt.Sprintf(" (max %d per node)", most)
	}
	return text
}

func publishedPorts(ports []*pb.PortConfig) string {
	var parts []string
	for _, p := range ports {
		parts = append(parts, portText(p))
	}
	return joinComma(parts)
}

// portText writes a port as Swarm does: "*:8080->80/tcp".
func portText(p *pb.PortConfig) string {
	protocol := enumName(p.Protocol.String(), "PROTOCOL_")
	if p.Published == 0 {
		return fmt.Sprintf("%d/%s", p.Target, protocol)
	}
	return fmt.Sprintf("*:%d->%d/%s", p.Published, p.Target, protocol)
}

func joinComma(parts []string) string { return strings.Join(parts, ", ") }

func (c *cli) servicePs() *cobra.Command {
	var o output
	var noResolve bool
	cmd := c.streaming("ps [FLAGS] SERVICE...", "List the tasks of services", atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		var services []string
		missing := each(args, func(ref string) error {
			ctx, cancel := bounded(ctx)
			defer cancel()
			s, err := a.control.GetService(ctx, &pb.GetRequest{Ref: ref})
			if err == nil {
				services = append(services, s.Id)
			}
			return err
		})
		if len(services) == 0 {
			return missing
		}
		return errors.Join(c.showTasks(ctx, &o, &pb.ListTasksRequest{Services: services}, noResolve), missing)
	})
	o.listFlags(cmd)
	o.filterFlag(cmd)
	o.watchFlag(cmd)
	cmd.Flags().BoolVar(&noResolve, "no-resolve", false, "ids instead of names")
	cmd.ValidArgsFunction = c.completeServices
	return cmd
}

func (c *cli) serviceInspect() *cobra.Command {
	var o output
	cmd := c.command("inspect [FLAGS] SERVICE...", "Show services whole", atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		return inspect(ctx, c, &o, args, inspected[*pb.Service]{
			get: func(ctx context.Context, ref string) (*pb.Service, error) {
				return a.control.GetService(ctx, &pb.GetRequest{Ref: ref})
			},
			fields: func(s *pb.Service) any {
				return struct {
					*pb.Service
					ID string
				}{s, s.Id}
			},
			pretty: prettyService,
		})
	})
	o.inspectFlags(cmd, true)
	cmd.ValidArgsFunction = c.completeServices
	return cmd
}

func (c *cli) serviceRemove() *cobra.Command {
	cmd := c.command("rm SERVICE...", "Remove services; their tasks stop in the background", atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		return each(args, func(ref string) error {
			if _, err := a.control.RemoveService(ctx, &pb.RemoveRequest{Ref: ref}); err != nil {
				return err
			}
			fmt.Fprintln(c.stdout, ref)
			return nil
		})
	})
	cmd.Aliases = []string{"remove"}
	cmd.ValidArgsFunction = c.completeServices
	return cmd
}
