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

// namer finds the names that an argument may have.
type namer func(ctx context.Context, a *api) []string

// completing offers live names that were not given yet.
func (c *cli) completing(names namer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return c.complete(cmd, given, prefix, names)
	}
}

// complete offers live names; without a cluster in reach there are none.
func (c *cli) complete(cmd *cobra.Command, given []string, prefix string, names namer) ([]string, cobra.ShellCompDirective) {
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

func (c *cli) completeScale(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	names, directive := c.complete(cmd, nil, prefix, func(ctx context.Context, a *api) []string {
		names := serviceNames(ctx, a)
		for i := range names {
			names[i] += "="
		}
		return names
	})
	return names, directive | cobra.ShellCompDirectiveNoSpace
}

func namesOf[T any](items []T, name func(T) string) []string {
	names := make([]string, len(items))
	for i, item := range items {
		names[i] = name(item)
	}
	return names
}

func serviceNames(ctx context.Context, a *api) []string {
	resp, _ := a.control.ListServices(ctx, &pb.ListRequest{})
	return namesOf(resp.GetServices(), func(s *pb.Service) string { return s.GetSpec().GetName() })
}

func hostnames(ctx context.Context, a *api) []string {
	resp, _ := a.control.ListNodes(ctx, &pb.ListRequest{})
	return namesOf(resp.GetNodes(), hostname)
}

func taskIDs(ctx context.Context, a *api) []string {
	resp, _ := a.control.ListTasks(ctx, &pb.ListTasksRequest{})
	return namesOf(resp.GetTasks(), func(t *pb.Task) string { return print.ID(t.Id, false) })
}

func secretNames(ctx context.Context, a *api) []string {
	resp, _ := a.control.ListSecrets(ctx, &pb.ListRequest{})
	return namesOf(resp.GetSecrets(), func(s *pb.Secret) string { return s.GetSpec().GetName() })
}

func configNames(ctx context.Context, a *api) []string {
	resp, _ := a.control.ListConfigs(ctx, &pb.ListRequest{})
	return namesOf(resp.GetConfigs(), func(s *pb.Config) string { return s.GetSpec().GetName() })
}

func networkNames(ctx context.Context, a *api) []string {
	resp, _ := a.control.ListNetworks(ctx, &pb.ListRequest{})
	return namesOf(resp.GetNetworks(), networkName)
}

// serviceNetworks are the networks that services may be on.
func serviceNetworks(ctx context.Context, a *api) []string {
	resp, _ := a.control.ListNetworks(ctx, &pb.ListRequest{})
	return namesOf(slices.DeleteFunc(resp.GetNetworks(), func(n *pb.Network) bool { return n.GetSpec().GetIngress() }), networkName)
}

func imageNames(ctx context.Context, a *api) []string {
	resp, _ := a.local.ListImages(ctx, &pb.ListImagesRequest{})
	return namesOf(resp.GetImages(), (*pb.Image).GetName)
}
