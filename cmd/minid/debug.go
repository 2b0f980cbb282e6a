package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/minid/minid/client"
	"github.com/minid/minid/node"
	pb "github.com/minid/minid/proto/minid/v1"
)

// debugTime bounds the look at all of a node's network.
const debugTime = 2 * time.Minute

// The forms of the output.
const (
	formatText = "text"
	formatJSON = "json"
)

func newDebugCommand(cfg *node.Config) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "Look into the minid that runs here",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDebugNetworkCommand(cfg))
	return cmd
}

func newDebugNetworkCommand(cfg *node.Config) *cobra.Command {
	var part, format string
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Show what the kernel should have and has of the node's network",
		Long: `Shows each part of the node's network side by side: what minid wants on the left,
what the kernel has on the right. Lines that differ have a mark between them: <
is only wanted, > only there, | is both. It exits with 1 if a part is not as it
should be; minid repairs it within seconds.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != formatText && format != formatJSON {
				return usageError{fmt.Errorf("invalid --format %q: use %s or %s", format, formatText, formatJSON)}
			}
			c, err := client.Dial("unix://"+cfg.SocketPath(), client.Options{})
			if err != nil {
				return err
			}
			defer c.Close()
			return debugNetwork(cmd.Context(), c.Local, part, printer(cmd.OutOrStdout(), format))
		},
	}
	cmd.Flags().StringVar(&part, "part", "", "only this part: bridge, overlay, wireguard, mesh, names, vip[/TASK] or dns[/TASK]")
	cmd.Flags().StringVar(&format, "format", formatText, "text or json, one object for each part")
	return cmd
}

// debugNetwork prints the parts, and says which are not as they should be.
func debugNetwork(ctx context.Context, local pb.LocalClient, part string, show func(*pb.NetworkPart) error) error {
	ctx, cancel := context.WithTimeout(ctx, debugTime)
	defer cancel()
	stream, err := local.DebugNetwork(ctx, &pb.DebugNetworkRequest{Part: part})
	if err != nil {
		return err
	}
	var wrong []string
	var whole *pb.NetworkPart
	finish := func() error {
		if whole == nil {
			return nil
		}
		if !whole.Intact {
			wrong = append(wrong, whole.Name)
		}
		return show(whole)
	}
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if whole != nil && whole.Name == piece.Name {
			whole.Wanted += piece.Wanted
			whole.Actual += piece.Actual
			continue
		}
		if err := finish(); err != nil {
			return err
		}
		whole = piece
	}
	if err := finish(); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not as it should be: %s", strings.Join(wrong, ", "))
	}
	return nil
}

func printer(w io.Writer, format string) func(*pb.NetworkPart) error {
	if format == formatJSON {
		return func(p *pb.NetworkPart) error { return writeJSON(w, p) }
	}
	first := true
	return func(p *pb.NetworkPart) error {
		text := p.Name + ": as it should be\n"
		if !p.Intact {
			text = p.Name + ": NOT as it should be\n"
		}
		if p.Problem != "" {
			text += p.Problem + "\n"
		}
		if !first {
			text = "\n" + text
		}
		first = false
		_, err := io.WriteString(w, text+sideBySide(p.Wanted, p.Actual))
		return err
	}
}

func writeJSON(w io.Writer, p *pb.NetworkPart) error {
	return json.NewEncoder(w).Encode(struct {
		Name    string `json:"name"`
		Intact  bool   `json:"intact"`
		Problem string `json:"problem,omitempty"`
		Wanted  string `json:"wanted"`
		Actual  string `json:"actual"`
	}{p.Name, p.Intact, p.Problem, p.Wanted, p.Actual})
}
