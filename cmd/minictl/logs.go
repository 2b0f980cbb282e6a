package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// logTime has a fixed width, so that lines stay aligned.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (c *cli) logsCommand(use string) *cobra.Command {
	var (
		follow      bool
		since, tail string
		style       logStyle
	)
	cmd := c.streaming(use, "Show the logs of a service or task, merged in time order", exactly(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		req := &pb.LogsRequest{Ref: args[0], Follow: follow}
		if req.Tail, err = parseTail(tail); err != nil {
			return err
		}
		if req.Since, err = parseTime("since", since, c.now()); err != nil {
			return err
		}
		stream, err := a.control.Logs(ctx, req)
		if err != nil {
			return err
		}
		for {
			line, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			c.printLog(line, &style)
		}
	})
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with new lines")
	f.StringVarP(&tail, "tail", "n", "all", "lines from the end of each task")
	f.StringVar(&since, "since", "", "only lines after a time or within a duration, such as 10m")
	f.BoolVarP(&style.timestamps, "timestamps", "t", false, "show times")
	f.BoolVar(&style.whole, "no-trunc", false, "do not shorten ids")
	f.BoolVar(&style.noTaskIDs, "no-task-ids", false, "leave task ids out")
	f.BoolVar(&style.raw, "raw", false, "only what the tasks wrote")
	f.BoolVar(&style.noResolve, "no-resolve", false, "node ids instead of names")
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

// logStyle says how log lines are written.
type logStyle struct {
	timestamps, whole, noTaskIDs, raw, noResolve bool
	// width of the widest origin so far.
	width int
}

// printLog writes one line to the stream that the task wrote it to.
func (c *cli) printLog(line *pb.LogLine, style *logStyle) {
	out := c.stdout
	if line.Stream == pb.Stream_STREAM_STDERR || line.Warning {
		out = c.stderr
	}
	if line.Warning {
		fmt.Fprintf(out, "Warning: %s\n", print.Clean(string(line.Text)))
		return
	}
	fmt.Fprintf(out, "%s%s\n", style.prefix(line, c.colours(out)), line.Text)
}

func (s *logStyle) prefix(line *pb.LogLine, colours bool) string {
	var at string
	if s.timestamps {
		at = line.At.AsTime().UTC().Format(logTime) + " "
	}
	if s.raw {
		return at
	}
	origin := s.origin(line)
	s.width = max(s.width, len(origin))
	text := fmt.Sprintf("%-*s    | ", s.width, origin)
	if colours {
		h := fnv.New32a()
		h.Write([]byte(line.TaskId))
		text = fmt.Sprintf("\x1b[%dm%s\x1b[0m", 31+h.Sum32()%6, text)
	}
	return at + text
}

// origin names a line's task as Swarm does: web.1.k4qfi2ga0ega@node1.
func (s *logStyle) origin(line *pb.LogLine) string {
	name := strings.TrimSuffix(line.TaskName, "."+line.TaskId)
	// A global service's task is named after its node's id.
	if service, ok := strings.CutSuffix(name, "."+line.NodeId); ok {
		name = service + "." + print.ID(line.NodeId, s.whole)
	}
	if !s.noTaskIDs {
		name += "." + print.ID(line.TaskId, s.whole)
	}
	node := line.NodeName
	if s.noResolve || node == "" {
		node = print.ID(line.NodeId, s.whole)
	}
	return print.Clean(name + "@" + node)
}

func parseTail(s string) (int64, error) {
	if s == "all" {
		return -1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fault.New(fault.Invalid, "invalid --tail %q: expected a number or all", s)
	}
	return n, nil
}

// parseTime reads a flag: a time, seconds since 1970, or a duration before now.
func parseTime(flag, s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return timestamppb.New(now.Add(-d)), nil
	}
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		return timestamppb.New(time.Unix(seconds, 0)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, fault.New(fault.Invalid, "invalid --%s %q: expected a time such as 2026-11-22T10:00:00Z or a duration such as 10m", flag, s)
}
