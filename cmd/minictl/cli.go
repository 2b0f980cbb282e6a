package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/minid/minid/client"
	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// errInterrupted is why a command ends when the user presses Ctrl-C.
var errInterrupted = errors.New("interrupted")

// cli is one run of the program.
type cli struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) string
	now            func() time.Time

	host string
	// identity is the file that https hosts know the user by.
	identity string
	api      *api
	// started is set once a command runs; errors before it are usage errors.
	started bool
}

// run carries out a command line. The end of ctx counts as an interruption by
// the user.
func (c *cli) run(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	c.api.close()
	if err == nil {
		return 0
	}
	if !c.started {
		err = usageError(cmd, err)
	}
	return c.report(err)
}

func (c *cli) root() *cobra.Command {
	root := c.group("minictl", "Run services on a cluster of machines")
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.CompletionOptions.HiddenDefaultCmd = false
	// `service create` has a --host of its own, as docker's: what stands before a
	// command is for minictl itself.
	root.TraverseChildren = true
	host := cmp.Or(c.env(client.HostEnv), client.DefaultHost)
	root.PersistentFlags().StringVarP(&c.host, "host", "H", host, "node to connect to (or "+client.HostEnv+")")
	root.PersistentFlags().StringVar(&c.identity, "identity", c.env(identityEnv),
		"PEM file with certificate, key and root for https hosts, as a manager's DATA_DIR/certificates/node.pem (or "+identityEnv+")")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	root.AddCommand(c.swarmCommand(), c.nodeCommand(), c.serviceCommand(), c.taskCommand(),
		c.secretCommand(), c.configCommand(), c.networkCommand(), c.imageCommand(), c.execCommand(),
		c.logsCommand("logs [FLAGS] SERVICE|TASK"), c.waitCommand(), c.eventsCommand(), c.topCommand(), c.infoCommand(), c.versionCommand())
	return root
}

// identityEnv names the environment variable for --identity.
const identityEnv = "MINICTL_IDENTITY"

// later are commands that Swarm has and minid does not have yet.
const later = " stack volume unlock unlock-key connect disconnect "

// group is a command that only holds others.
func (c *cli) group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			if strings.Contains(later, " "+args[0]+" ") {
				return fmt.Errorf("%q is not supported yet", cmd.CommandPath()+" "+args[0])
			}
			near := ""
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				near = fmt.Sprintf(" (did you mean %q?)", s[0])
			}
			return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), near)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(children...)
	return cmd
}

// action does a command's work.
type action func(ctx context.Context, args []string) error

// command is a command that is done within callTimeout.
func (c *cli) command(use, short string, args cobra.PositionalArgs, do action) *cobra.Command {
	return c.streaming(use, short, args, func(ctx context.Context, args []string) error {
		ctx, cancel := bounded(ctx)
		defer cancel()
		return overdue(ctx, do(ctx, args))
	})
}

// streaming is a command that may take any time. It can be interrupted.
func (c *cli) streaming(use, short string, args cobra.PositionalArgs, do action) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.started = true
			ctx, cancel := interruptible(cmd.Context())
			defer cancel(nil)
			err := do(ctx, args)
			if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), errInterrupted) {
				return interrupted(err)
			}
			return err
		},
	}
}

// interruptible returns a context that ends with errInterrupted on Ctrl-C or
// when its parent ends.
func interruptible(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer signal.Stop(signals)
		select {
		case <-signals:
		case <-parent.Done():
		case <-ctx.Done():
			return
		}
		cancel(errInterrupted)
	}()
	return ctx, cancel
}

// exactly, atLeast and between check the number of arguments.
func exactly(n int) cobra.PositionalArgs { return between(n, n) }
func atLeast(n int) cobra.PositionalArgs { return between(n, 1<<30) }

func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("%q needs at least %s", cmd.CommandPath(), arguments(least))
		case len(args) > most && most == 0:
			return fmt.Errorf("%q takes no arguments", cmd.CommandPath())
		case len(args) > most:
			return fmt.Errorf("%q takes at most %s", cmd.CommandPath(), arguments(most))
		}
		return nil
	}
}

func arguments(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

// usageError points to the help of the command that was misused.
func usageError(cmd *cobra.Command, err error) error {
	return fault.New(fault.Invalid, "%w", err).WithTry("%s --help", cmd.CommandPath())
}

// flagError tells apart flags that nobody has from those that minid has not yet.
func flagError(err error) error {
	if name, ok := strings.CutPrefix(err.Error(), "unknown flag: "); ok && spec.Unsupported(name) {
		return fmt.Errorf("%s is not supported yet", name)
	}
	return err
}

// each does something for every name, goes on after failures, and returns them
// all as one.
func each(names []string, do func(name string) error) error {
	var failures []error
	for _, name := range names {
		if err := do(name); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// parseFilters reads -f KEY=VALUE; the values of one key are alternatives.
func parseFilters(given []string) ([]*pb.Filter, error) {
	var filters []*pb.Filter
	byKey := map[string]*pb.Filter{}
	for _, s := range given {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, fault.New(fault.Invalid, "invalid --filter %q: expected KEY=VALUE", s)
		}
		if byKey[key] == nil {
			byKey[key] = &pb.Filter{Key: key}
			filters = append(filters, byKey[key])
		}
		byKey[key].Values = append(byKey[key].Values, value)
	}
	return filters, nil
}
