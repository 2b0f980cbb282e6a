package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (c *cli) networkCheck() *cobra.Command {
	var o output
	var timeout time.Duration
	cmd := c.streaming("check [FLAGS] [NODE...]", "Let the nodes probe each other, and tell what they find", atLeast(0), func(ctx context.Context, args []string) error {
		f, err := o.parse()
		if err != nil {
			return err
		}
		a, err := c.connect()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fault.New(fault.Timeout, "check network: not all nodes had done their probes after %v", timeout))
		defer cancel()
		results, failure := a.probes(ctx, args)
		if failure = overdue(ctx, failure); failure != nil && len(results) == 0 {
			return failure
		}
		arrangeProbes(results)
		if err := probeColumns().Write(c.stdout, f, results, true); err != nil {
			return err
		}
		if failure = errors.Join(probeFailure(results), failure); failure == nil && f.Kind <= print.Wide && !f.Quiet {
			fmt.Fprintf(c.stdout, "\n%s\n", probeSummary(results))
		}
		return failure
	})
	o.listFlags(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for results")
	cmd.ValidArgsFunction = c.completing(hostnames)
	return cmd
}

// probes collects what the nodes find, up to a failure.
func (a *api) probes(ctx context.Context, nodes []string) ([]*pb.ProbeResult, error) {
	stream, err := a.control.CheckNetwork(ctx, &pb.CheckNetworkRequest{Nodes: nodes})
	if err != nil {
		return nil, err
	}
	var results []*pb.ProbeResult
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return results, nil
		}
		if err != nil {
			return results, err
		}
		results = append(results, r)
	}
}

// arrangeProbes puts failures first, then orders by nodes and probe.
func arrangeProbes(results []*pb.ProbeResult) {
	slices.SortStableFunc(results, func(a, b *pb.ProbeResult) int {
		return cmp.Or(-cmp.Compare(faults(a), faults(b)), cmp.Compare(a.FromName, b.FromName), cmp.Compare(a.ToName, b.ToName),
			cmp.Compare(a.Probe, b.Probe), cmp.Compare(a.What, b.What))
	})
}

// faults is 1 for a probe that failed.
func faults(r *pb.ProbeResult) int {
	if r.Ok {
		return 0
	}
	return 1
}

func probeColumns() print.List[*pb.ProbeResult] {
	return print.List[*pb.ProbeResult]{
		ID:     func(r *pb.ProbeResult) string { return r.FromId + " " + r.ToId },
		Object: func(r *pb.ProbeResult) proto.Message { return r },
		Columns: []print.Column[*pb.ProbeResult]{
			{Field: "From", Header: "FROM", Value: func(r *pb.ProbeResult, whole bool) string { return cmp.Or(r.FromName, print.ID(r.FromId, whole)) }},
			{Field: "To", Header: "TO", Value: func(r *pb.ProbeResult, whole bool) string { return cmp.Or(r.ToName, print.ID(r.ToId, whole)) }},
			{Field: "Probe", Header: "PROBE", Value: func(r *pb.ProbeResult, _ bool) string { return probeName(r) }},
			{Field: "What", Value: func(r *pb.ProbeResult, _ bool) string { return r.What }},
			{Field: "Result", Header: "RESULT", Value: func(r *pb.ProbeResult, _ bool) string {
				if r.Ok {
					return "ok"
				}
				return "FAILED"
			}},
			{Field: "Detail", Header: "DETAIL", Value: func(r *pb.ProbeResult, _ bool) string { return r.Detail }},
		},
	}
}

// probeName is the kind of probe and what it tried: "port 8080/tcp of web".
func probeName(r *pb.ProbeResult) string {
	return strings.TrimSpace(enumName(r.Probe.String(), "PROBE_") + " " + r.What)
}

// probeSummary is the sentence for probes that all succeeded.
func probeSummary(results []*pb.ProbeResult) string {
	if len(results) == 0 {
		return "There was nothing to probe."
	}
	nodes := map[string]bool{}
	for _, r := range results {
		nodes[r.FromId], nodes[r.ToId] = true, true
	}
	return fmt.Sprintf("All %s on %s succeeded.", plural(len(results), "probe"), plural(len(nodes), "node"))
}

// probeFailure sums up probes of which some failed, nil when none did.
func probeFailure(results []*pb.ProbeResult) error {
	failed := 0
	for _, r := range results {
		failed += faults(r)
	}
	if failed == 0 {
		return nil
	}
	return fault.New(fault.State, "check network: %d of %s failed", failed, plural(len(results), "probe"))
}

// plural counts things: "1 node", "3 nodes".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
