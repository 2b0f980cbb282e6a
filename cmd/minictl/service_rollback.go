package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (c *cli) serviceRollback() *cobra.Command {
	var (
		to, ifVersion uint64
		wait          waitFlags
	)
	cmd := c.streaming("rollback [FLAGS] SERVICE", "Put an earlier version of a service in place again", exactly(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if err := wait.check(); err != nil {
			return err
		}
		return c.rollback(ctx, a, &pb.RollbackServiceRequest{Ref: args[0], To: to, IfVersion: ifVersion}, wait)
	})
	cmd.Flags().Uint64Var(&to, "to", 0, "a version's number in service history (default the one before the present)")
	ifVersionFlag(cmd, &ifVersion)
	wait.register(cmd)
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

// ifVersionFlag adds the flag that guards a change against others.
func ifVersionFlag(cmd *cobra.Command, version *uint64) {
	cmd.Flags().Uint64Var(version, "if-version", 0, "only if the service's meta.version, as service inspect shows it, is still this")
}

// rollback asks for one and waits for it.
func (c *cli) rollback(ctx context.Context, a *api, req *pb.RollbackServiceRequest, wait waitFlags) error {
	call, cancel := bounded(ctx)
	defer cancel()
	resp, err := a.control.RollbackService(call, req)
	if err != nil {
		return overdue(call, err)
	}
	c.warn(resp.Warnings)
	fmt.Fprintln(c.stdout, req.Ref)
	return c.wait(ctx, a, resp.Service, wait)
}

func (c *cli) serviceHistory() *cobra.Command {
	var o output
	cmd := c.command("history [FLAGS] SERVICE", "List the versions of a service that are kept, the newest first", exactly(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		s, err := a.control.GetService(ctx, &pb.GetRequest{Ref: args[0]})
		if err != nil {
			return err
		}
		return show(ctx, c, &o, listing[*pb.ServiceVersion]{list: c.historyColumns(s), rows: func(context.Context) ([]*pb.ServiceVersion, error) {
			rows := slices.Clone(s.History)
			slices.Reverse(rows)
			return rows, nil
		}})
	})
	o.listFlags(cmd)
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

func (c *cli) historyColumns(s *pb.Service) print.List[*pb.ServiceVersion] {
	type column = print.Column[*pb.ServiceVersion]
	number := func(v *pb.ServiceVersion) string { return fmt.Sprint(v.Number) }
	return print.List[*pb.ServiceVersion]{
		ID:     number,
		Object: func(v *pb.ServiceVersion) proto.Message { return v },
		Columns: []column{
			{Field: "Version", Header: "VERSION", Value: func(v *pb.ServiceVersion, _ bool) string { return number(v) }},
			{Field: "CreatedAt", Header: "CREATED", Value: func(v *pb.ServiceVersion, _ bool) string { return print.Ago(v.CreatedAt, c.now()) }},
			{Field: "Image", Header: "IMAGE", Value: func(v *pb.ServiceVersion, whole bool) string {
				return print.Image(v.GetSpec().GetTask().GetContainer().GetImage(), whole)
			}},
			{Field: "Change", Header: "CHANGE", Value: func(v *pb.ServiceVersion, whole bool) string { return changeText(s, v, whole) }},
		},
	}
}

// changeText sums up what a version changed.
func changeText(s *pb.Service, v *pb.ServiceVersion, whole bool) string {
	i := slices.IndexFunc(s.History, func(other *pb.ServiceVersion) bool { return other.Number == v.Number })
	switch {
	case v.RollbackTo > 0:
		return fmt.Sprintf("rollback to %d", v.RollbackTo)
	case i == 0 && v.Number == 1:
		return "created"
	case i == 0:
		return "" // what it changed is forgotten
	}
	var text string
	for n, change := range spec.Diff(s.History[i-1].Spec, v.Spec) {
		if n > 0 {
			text += ", "
		}
		text += changeLine(change)
	}
	if whole {
		return text
	}
	return print.Truncate(text, 60)
}

func changeLine(change spec.Change) string {
	switch {
	case change.Old == "":
		return fmt.Sprintf("%s +%s", change.Path, change.New)
	case change.New == "":
		return fmt.Sprintf("%s -%s", change.Path, change.Old)
	}
	return fmt.Sprintf("%s %s -> %s", change.Path, change.Old, change.New)
}

func (c *cli) serviceDiff() *cobra.Command {
	cmd := c.command("diff SERVICE [VERSION]", "Show how a service differs from an earlier version, by default the one before", between(1, 2), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		s, err := a.control.GetService(ctx, &pb.GetRequest{Ref: args[0]})
		if err != nil {
			return err
		}
		old, err := versionOf(s, args[1:])
		if err != nil {
			return err
		}
		now := s.History[len(s.History)-1]
		fmt.Fprintf(c.stdout, "--- %s version %d\n+++ %s version %d\n", s.Spec.Name, old.Number, s.Spec.Name, now.Number)
		for _, change := range spec.Diff(old.Spec, s.Spec) {
			if change.Old != "" {
				fmt.Fprintf(c.stdout, "-%s: %s\n", change.Path, print.Clean(change.Old))
			}
			if change.New != "" {
				fmt.Fprintf(c.stdout, "+%s: %s\n", change.Path, print.Clean(change.New))
			}
		}
		return nil
	})
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

// versionOf finds the version that the arguments name.
func versionOf(s *pb.Service, args []string) (*pb.ServiceVersion, error) {
	try := "minictl service history " + s.GetSpec().GetName()
	if len(args) == 0 {
		if len(s.History) < 2 {
			return nil, fault.New(fault.State, "service %q has no earlier version", s.GetSpec().GetName()).WithTry("%s", try)
		}
		return s.History[len(s.History)-2], nil
	}
	number, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return nil, fault.New(fault.Invalid, "invalid version %q: expected a number", args[0]).WithTry("%s", try)
	}
	for _, v := range s.History {
		if v.Number == number {
			return v, nil
		}
	}
	return nil, fault.New(fault.NotFound, "service %q keeps no version %d", s.GetSpec().GetName(), number).WithTry("%s", try)
}
