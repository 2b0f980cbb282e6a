package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/spec"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (c *cli) serviceCommand() *cobra.Command {
	return c.group("service", "Manage services", c.serviceCreate(), c.serviceList(), c.servicePs(), c.serviceInspect(),
		c.serviceUpdate(), c.serviceRollback(), c.serviceHistory(), c.serviceDiff(), c.serviceScale(), c.serviceRebalance(), c.serviceRun(), c.servicePause(), c.serviceResume(), c.serviceEvents(), c.logsCommand("logs [FLAGS] SERVICE|TASK"), c.serviceRemove())
}

func (c *cli) serviceList() *cobra.Command {
	return listCommand(c, listed[*pb.Service]{
		short: "List services", kinds: []pb.Kind{pb.Kind_KIND_SERVICE, pb.Kind_KIND_TASK},
		columns: func(ctx context.Context, a *api) print.List[*pb.Service] { return c.serviceColumns(ctx, a) },
		rows: func(ctx context.Context, a *api, filters []*pb.Filter) ([]*pb.Service, error) {
			resp, err := a.control.ListServices(ctx, &pb.ListRequest{Filters: filters})
			return resp.GetServices(), err
		},
		name: func(s *pb.Service) string { return s.GetSpec().GetName() },
	})
}

func (c *cli) serviceColumns(ctx context.Context, a *api) print.List[*pb.Service] {
	type column = print.Column[*pb.Service]
	return print.List[*pb.Service]{
		ID:     (*pb.Service).GetId,
		Object: func(s *pb.Service) proto.Message { return s },
		Columns: []column{
			{Field: "ID", Header: "ID", Value: func(s *pb.Service, whole bool) string { return print.ID(s.Id, whole) }},
			{Field: "Name", Header: "NAME", Value: func(s *pb.Service, _ bool) string { return s.GetSpec().GetName() }},
			{Field: "Mode", Header: "MODE", Value: func(s *pb.Service, _ bool) string { return spec.ModeName(s.GetSpec()) }},
			{Field: "Replicas", Header: "REPLICAS", Value: func(s *pb.Service, _ bool) string { return replicasText(s) }},
			{Field: "Image", Header: "IMAGE", Value: func(s *pb.Service, whole bool) string {
				return print.Image(s.GetSpec().GetTask().GetContainer().GetImage(), whole)
			}},
			{Field: "Ports", Header: "PORTS", Value: func(s *pb.Service, _ bool) string {
				return portsText(modePorts(servicePorts(s), pb.PortConfig_MODE_INGRESS))
			}},
			{Field: "Networks", Header: "NETWORKS", Wide: true, Value: func(s *pb.Service, _ bool) string {
				return joinComma(namesOf(s.GetSpec().GetTask().GetNetworks(), attachmentName))
			}},
			{Field: "Update", Header: "UPDATE", Wide: true, Value: func(s *pb.Service, _ bool) string {
				return enumName(s.GetUpdateStatus().GetState().String(), "UPDATE_STATE_")
			}},
			{Field: "Loops", Header: "RESTARTS", Wide: true, Costly: true, Value: func(s *pb.Service, _ bool) string { return c.loopsCell(ctx, a, s) }},
			{Field: "Next", Header: "NEXT RUN", Wide: true, Value: func(s *pb.Service, _ bool) string { return nextText(s, c.now()) }},
			{Field: "Labels", Header: "LABELS", Wide: true, Value: func(s *pb.Service, _ bool) string { return labelText(s.GetSpec().GetLabels()) }},
		},
	}
}

func replicasText(s *pb.Service) string {
	if s.Removing {
		return fmt.Sprintf("%d/0 (removing)", s.GetStatus().GetRunning())
	}
	text := fmt.Sprintf("%d/%d", s.GetStatus().GetRunning(), s.GetStatus().GetDesired())
	if spec.IsJob(s.GetSpec()) {
		text = jobReplicas(s)
	}
	if most := s.GetSpec().GetTask().GetPlacement().GetMaxReplicasPerNode(); most > 0 {
		text += fmt.Sprintf(" (max %d per node)", most)
	}
	return text
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
		err = c.showTasks(ctx, &o, &pb.ListTasksRequest{Services: services}, noResolve)
		if err == nil && !o.watch && !o.quiet && (o.format == "" || o.format == "wide") {
			c.tellLoopsOf(ctx, a, services)
		}
		return errors.Join(err, missing)
	})
	o.listFlags(cmd)
	o.filterFlag(cmd)
	o.watchFlag(cmd)
	cmd.Flags().BoolVar(&noResolve, "no-resolve", false, "ids instead of names")
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

func (c *cli) serviceInspect() *cobra.Command {
	return inspectCommand(c, inspected[*pb.Service]{
		what: "SERVICE", short: "Show services whole", names: serviceNames,
		get: func(ctx context.Context, a *api, ref string) (*pb.Service, error) {
			return a.control.GetService(ctx, &pb.GetRequest{Ref: ref})
		},
		fields: func(s *pb.Service) any {
			return struct {
				*pb.Service
				ID string
			}{s, s.Id}
		},
		pretty: func(w io.Writer, s *pb.Service) { prettyService(w, s, c.now()) },
		more: func(ctx context.Context, a *api, w io.Writer, s *pb.Service) {
			c.tellLoops(ctx, a, w, a.loopsOf(ctx, s.Id, c.now()))
		},
	})
}

func (c *cli) serviceRemove() *cobra.Command {
	return c.removeCommand(removed{
		what: "SERVICE", short: "Remove services; their tasks stop in the background", names: serviceNames,
		remove: func(ctx context.Context, a *api, ref string) error {
			_, err := a.control.RemoveService(ctx, &pb.RemoveRequest{Ref: ref})
			return err
		},
	})
}
