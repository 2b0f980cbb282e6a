package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/minid/minid/cmd/minictl/print"
	pb "github.com/minid/minid/proto/minid/v1"
)

// completionTimeout keeps a shell from hanging on a cluster out of reach.
const completionTimeout = time.Second

// complete offers live names; without a cluster in reach there are none.
func (c *cli) complete(cmd *cobra.Command, given []string, prefix string, names func(ctx context.Context, a *api) []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	a, err := c.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found := slices.DeleteFunc(names(ctx, a), func(name string) bool {
		return !strings.HasPrefix(name, prefix) || slices.Contains(given, name)
	})
	slices.Sort(found)
	return slices.Compact(found), cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) completeServices(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, given, prefix, serviceNames)
}

func serviceNames(ctx context.Context, a *api) []string {
	resp, _ := a.control.ListServices(ctx, &pb.ListRequest{})
	var names []string
	for _, s := range resp.GetServices() {
		names = append(names, s.GetSpec().GetName())
	}
	return names
}

func (c *cli) completeScale(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	names, directive := c.complete(cmd, nil, prefix, func(ctx context.Context, a *api) []string {
		names := serviceNames(ctx, a)
		for i := range names {
			names[i] += "="
		}
		return names
	})
	return names, directive | cobra.ShellCompDirectiveNoSpace
}

func (c *cli) completeNodes(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, given, prefix, func(ctx context.Context, a *api) []string {
		resp, _ := a.control.ListNodes(ctx, &pb.ListRequest{})
		var names []string
		for _, n := range resp.GetNodes() {
			names = append(names, hostname(n))
		}
		return names
	})
}

func (c *cli) completeTasks(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, given, prefix, func(ctx context.Context, a *api) []string {
		resp, _ := a.control.ListTasks(ctx, &pb.ListTasksRequest{})
		var names []string
		for _, t := range resp.GetTasks() {
			names = append(names, print.ID(t.Id, false))
		}
		return names
	})
}

func (c *cli) completeSecrets(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, given, prefix, func(ctx context.Context, a *api) []string {
		resp, _ := a.control.ListSecrets(ctx, &pb.ListRequest{})
		var names []string
		for _, s := range resp.GetSecrets() {
			names = append(names, s.GetSpec().GetName())
		}
		return names
	})
}

func (c *cli) completeConfigs(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, given, prefix, func(ctx context.Context, a *api) []string {
		resp, _ := a.control.ListConfigs(ctx, &pb.ListRequest{})
		var names []string
		for _, s := range resp.GetConfigs() {
			names = append(names, s.GetSpec().GetName())
		}
		return names
	})
}

func (c *cli) completeImages(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, given, prefix, func(ctx context.Context, a *api) []string {
		resp, _ := a.local.ListImages(ctx, &pb.ListImagesRequest{})
		var names []string
		for _, i := range resp.GetImages() {
			names = append(names, i.Name)
		}
		return names
	})
}
