// Command minid is the node daemon: an agent on every node, a manager on some.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/node"
	"github.com/minid/minid/node/machine"
)

// version is set by the linker.
var version = "0.1.0-dev"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// usageError marks what the user typed wrong: exit code 2.
type usageError struct{ error }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil || errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return 0
	}
	fmt.Fprintln(stderr, "Error:", err)
	_, wrong := errors.AsType[usageError](err)
	if try := fault.TryOf(err); try != "" {
		fmt.Fprintln(stderr, "Try:", try)
	} else if wrong {
		fmt.Fprintln(stderr, "Try: minid --help")
	}
	if wrong {
		return 2
	}
	return 1
}

func newCommand() *cobra.Command {
	cfg := node.Defaults()
	var logging logOptions
	cmd := &cobra.Command{
		Use:   "minid [flags]",
		Short: "Run a node of a minid cluster",
		Long: `minid runs on every node of the cluster. It starts without a cluster and waits
for "minictl swarm init" or "minictl swarm join"; afterwards it returns to its
cluster at every start. SIGTERM stops minid and leaves containers running; the
next start takes them over.

Every flag can also be given in the environment, as MINID_ and its name in
capitals (MINID_DATA_DIR), and as a key of the --config file, in YAML. A flag
wins over the environment, the environment over the file.`,
		Args:          noArgs,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		// For the subcommands too, which take the same flags.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := applyDefaults(cmd, os.LookupEnv); err != nil {
				return usageError{err}
			}
			logger, err := logging.logger(os.Stderr)
			if err != nil {
				return usageError{err}
			}
			cfg.Version, cfg.Logger = version, logger
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return machine.Run(cmd.Context(), cfg) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	addFlags(cmd, &cfg, &logging)
	cmd.AddCommand(newCheckCommand(&cfg), newDebugCommand(&cfg))
	cmd.CompletionOptions.DisableDefaultCmd = true
	return cmd
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q", args[0])}
	}
	return nil
}

func addFlags(cmd *cobra.Command, cfg *node.Config, logging *logOptions) {
	f := cmd.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "raft store, certificates, agent state, managed containerd's root")
	f.StringVar(&cfg.RunDir, "run-dir", cfg.RunDir, "sockets and runtime state")
	f.StringVar(&cfg.ListenAddr, "listen-addr", cfg.ListenAddr, "the one control port: API, CA, dispatcher, raft, all with TLS")
	f.StringVar(&cfg.AdvertiseAddr, "advertise-addr", "", "address or interface[:port] that peers dial (default: from the default route)")
	f.StringVar(&cfg.DataPathAddr, "data-path-addr", "", "address or interface for the overlays' traffic (default: the advertised address)")
	f.Uint16Var(&cfg.DataPathPort, "data-path-port", cfg.DataPathPort, "UDP port of the overlays' traffic in a cluster that this node makes")
	f.StringVar(&cfg.Name, "name", cfg.Name, "node name")
	f.StringArrayVar(&cfg.Labels, "label", nil, "engine label key=value (repeatable)")
	f.StringArrayVar(&cfg.GenericResources, "generic-resource", nil, "what the node has for tasks that ask for it, KIND=N or KIND=ID,ID (repeatable)")
	f.StringVar(&cfg.ContainerdAddress, "containerd-address", "", "socket of a containerd to use, 1.6 or newer (default: start and own a private one)")
	f.StringVar(&cfg.RegistryConfig, "registry-config", cfg.RegistryConfig, "per-registry hosts.toml as containerd's")
	f.StringVar(&cfg.MetricsAddr, "metrics-addr", "", "serve Prometheus metrics and health on this address (default: off)")
	f.StringVar(&logging.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&logging.format, "log-format", "", "text or json (default: text on a terminal, else json)")
	f.String("config", "", "YAML file with the names of these flags as keys")
}

// logOptions chooses how minid logs.
type logOptions struct{ level, format string }

func (o logOptions) logger(w *os.File) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return nil, fmt.Errorf("invalid --log-level %q: use debug, info, warn or error", o.level)
	}
	format := o.format
	if format == "" {
		format = "json"
		if term.IsTerminal(int(w.Fd())) {
			format = "text"
		}
	}
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("invalid --log-format %q: use text or json", format)
}
