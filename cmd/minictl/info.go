package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/minid/minid/cmd/minictl/print"
	pb "github.com/minid/minid/proto/minid/v1"
)

// version of minictl; the build sets it.
var version = "dev"

func (c *cli) infoCommand() *cobra.Command {
	var o output
	cmd := c.command("info [FLAGS]", "Tell about the connected node", exactly(0), func(ctx context.Context, _ []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		f, err := o.parse()
		if err != nil {
			return err
		}
		info, err := a.local.Info(ctx, &pb.InfoRequest{})
		if err != nil {
			return err
		}
		if o.format != "" && f.Kind != print.Table {
			return print.One(c.stdout, f, print.Inspected{Message: info, Fields: info})
		}
		c.printInfo(info, a.clusterSpec(ctx))
		return nil
	})
	o.inspectFlags(cmd, false)
	return cmd
}

// clusterSpec are the cluster's settings, nil where no manager tells.
func (a *api) clusterSpec(ctx context.Context) *pb.ClusterSpec {
	cluster, err := a.control.GetCluster(ctx, &pb.GetClusterRequest{})
	if err != nil {
		return nil
	}
	return cluster.GetSpec()
}

func (c *cli) printInfo(i *pb.InfoResponse, cluster *pb.ClusterSpec) {
	p, d := prettyPrinter{c.stdout}, i.GetDescription()
	p.line(0, "Name", i.Name)
	p.line(0, "Version", i.Version)
	p.field(0, "Containerd Version", d.GetRuntimeVersion())
	p.field(0, "Error", i.Error)
	state := "inactive"
	if i.NodeId != "" {
		state = "active"
	}
	p.line(0, "Swarm", state)
	if i.NodeId != "" {
		p.line(1, "NodeID", i.NodeId)
		p.line(1, "ClusterID", i.ClusterId)
		p.line(1, "Role", roleName(i.Role))
		p.line(1, "Leader", fmt.Sprint(i.Leader))
		p.field(1, "Address", i.Addr)
		p.field(1, "Manager Addresses", joinComma(i.ManagerAddrs))
		p.field(1, "Certificate Expires", timeText(i.CertExpiresAt))
		if cluster != nil {
			p.line(1, "Placement Strategy", strategyName(cluster.PlacementStrategy))
			p.line(1, "Rebalance On Join", fmt.Sprint(cluster.RebalanceOnJoin))
			p.field(1, "Orphan Time", durationText(cluster.OrphanTime))
		}
		p.line(1, "Running Tasks", fmt.Sprint(i.TasksRunning))
	}
	p.line(0, "Platform", d.GetPlatform().GetOs()+"/"+d.GetPlatform().GetArchitecture())
	p.line(0, "CPUs", cpuText(d.GetResources().GetNanoCpus()))
	p.line(0, "Total Memory", units.BytesSize(float64(d.GetResources().GetMemoryBytes())))
	p.field(0, "Generic Resources", genericText(d.GetResources().GetGeneric()))
	p.field(0, "Data Path Address", d.GetDataPathAddr())
	p.field(0, "Data Dir", i.DataDir)
	p.labels(0, d.GetEngineLabels())
}

func (c *cli) versionCommand() *cobra.Command {
	return c.command("version", "Show the versions of minictl and minid", exactly(0), func(ctx context.Context, _ []string) error {
		fmt.Fprintf(c.stdout, "Client: %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		a, err := c.connect()
		if err != nil {
			return err
		}
		info, err := a.local.Info(ctx, &pb.InfoRequest{})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "Server: %s\n", info.Version)
		return nil
	})
}
