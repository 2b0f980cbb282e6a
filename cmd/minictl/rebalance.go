package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (c *cli) serviceRebalance() *cobra.Command {
	var wait waitFlags
	cmd := c.streaming("rebalance [FLAGS] SERVICE", "Spread a replicated service's tasks anew over the nodes there are, at the pace of its update settings", exactly(1), func(ctx context.Context, args []string) error {
		if err := wait.check(); err != nil {
			return err
		}
		a, err := c.connect()
		if err != nil {
			return err
		}
		call, cancel := bounded(ctx)
		defer cancel()
		s, err := a.control.RebalanceService(call, &pb.GetRequest{Ref: args[0]})
		if err != nil {
			return overdue(call, err)
		}
		fmt.Fprintln(c.stdout, args[0])
		if wait.detach {
			return nil
		}
		return c.waitForRebalance(ctx, a, s, wait)
	})
	wait.register(cmd)
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

// waitForRebalance waits until a rebalancing has come to its end, and tells how.
func (c *cli) waitForRebalance(ctx context.Context, a *api, s *pb.Service, f waitFlags) error {
	limited, cancel := context.WithTimeoutCause(ctx, f.timeout, errWaited)
	defer cancel()
	name, tell := s.GetSpec().GetName(), c.teller(f)
	object := awaited{"service", name, "rebalanced"}
	last := "it was not looked at"
	err := poll(limited, func(ctx context.Context) (bool, error) {
		now, err := a.control.GetService(ctx, &pb.GetRequest{Ref: s.Id})
		switch {
		case fault.Is(err, fault.NotFound):
			return false, fault.New(fault.NotFound, "service %q was removed while it was rebalanced", name)
		case err != nil:
			return false, err
		}
		s = now
		if s.GetRebalance().GetCompletedAt() != nil {
			return true, nil
		}
		if last, err = a.rebalanceText(ctx, s); err == nil {
			tell.waits(object, last)
		}
		return false, err
	}, func() error {
		return fault.New(fault.Timeout, "service %q is not rebalanced after %v: %s; the work goes on", name, f.timeout, last).
			WithTry("minictl service ps %s", name)
	})
	switch message := print.Clean(s.GetRebalance().GetMessage()); {
	case errors.Is(context.Cause(ctx), errInterrupted):
		fmt.Fprintf(c.stderr, "Operation continuing in background.\nTry: minictl service inspect --pretty %s\n", name)
		return &exitError{code: exitInterrupted}
	case err != nil:
		return err
	case strings.HasPrefix(message, "gave up"):
		return fault.New(fault.State, "rebalance service %q: %s", name, message).WithTry("minictl service ps %s", name)
	case f.tells():
		fmt.Fprintf(c.stderr, "Service %s rebalanced: %s\n", name, message)
	}
	return nil
}

// rebalanceText is "2 moved; web.5 moves: its replacement is preparing".
func (a *api) rebalanceText(ctx context.Context, s *pb.Service) (string, error) {
	text := fmt.Sprintf("%d moved", s.GetRebalance().GetMoved())
	resp, err := a.control.ListTasks(ctx, &pb.ListTasksRequest{Services: []string{s.Id}})
	if err != nil {
		return text, err
	}
	goesOn := map[string]bool{}
	for _, t := range resp.Tasks {
		goesOn[t.Id] = t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING
	}
	for _, t := range resp.Tasks {
		if state := t.GetStatus().GetState(); goesOn[t.Id] && goesOn[t.Replaces] && state < pb.TaskState_TASK_STATE_RUNNING {
			text += fmt.Sprintf("; %s moves: its replacement is %s", progress.Ref(t), progress.StateName(state))
			if why := progress.Reason(t); why != "" {
				text += ": " + print.Clean(why)
			}
			break
		}
	}
	return text, nil
}

// prettyRebalance prints how a service's last rebalancing goes or went.
func prettyRebalance(p prettyPrinter, r *pb.Rebalance, now time.Time) {
	if r == nil {
		return
	}
	p.line(0, "Rebalance", "")
	p.line(1, "Started", print.Ago(r.AskedAt, now))
	if r.CompletedAt != nil {
		p.line(1, "Completed", print.Ago(r.CompletedAt, now))
	} else {
		p.line(1, "Moved", fmt.Sprint(r.Moved))
	}
	p.field(1, "Message", r.Message)
}
