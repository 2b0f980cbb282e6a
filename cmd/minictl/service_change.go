package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/registry"
	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

// imageFlags are what create and update ask of the client about images.
type imageFlags struct{ sendAuth, noResolve bool }

func (f *imageFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.sendAuth, "with-registry-auth", false, "let nodes pull with this user's registry credentials")
	cmd.Flags().BoolVar(&f.noResolve, "no-resolve-image", false, "do not ask the registry for digest and platforms")
}

func (c *cli) environment() spec.Environment {
	return spec.Environment{Getenv: c.env, ReadFile: os.ReadFile}
}

func (c *cli) serviceCreate() *cobra.Command {
	var (
		flags  *spec.Flags
		images imageFlags
		wait   waitFlags
	)
	cmd := c.streaming("create [FLAGS] IMAGE [COMMAND] [ARG...]", "Make a service", atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if err := wait.check(); err != nil {
			return err
		}
		s, err := flags.Create(args[0], args[1:], c.environment())
		if err != nil {
			return err
		}
		created, err := c.createService(ctx, a, s, images)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, created.Id)
		return c.wait(ctx, a, created, wait)
	})
	cmd.Flags().SetInterspersed(false)
	flags = spec.CreateFlags(cmd.Flags())
	cmd.RegisterFlagCompletionFunc("network", c.completing(serviceNetworks))
	cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"replicated", "global", "replicated-job", "global-job"}, cobra.ShellCompDirectiveNoFileComp))
	images.register(cmd)
	wait.register(cmd)
	return cmd
}

func (c *cli) createService(ctx context.Context, a *api, s *pb.ServiceSpec, images imageFlags) (*pb.Service, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	warnings, err := c.prepare(ctx, s, images, true)
	if err != nil {
		return nil, err
	}
	if s.Name == "" {
		s.Name = spec.DefaultName(s.Task.Container.Image, id.New())
	}
	resp, err := a.control.CreateService(ctx, &pb.CreateServiceRequest{Spec: s})
	if err != nil {
		return nil, err
	}
	c.warn(append(warnings, resp.Warnings...))
	return resp.Service, nil
}

func (c *cli) serviceUpdate() *cobra.Command {
	var (
		flags  *spec.Flags
		images imageFlags
		wait   waitFlags
		cmd    *cobra.Command
		// What the service must be at, and whether it shall only go back.
		ifVersion uint64
		back      bool
	)
	cmd = c.streaming("update [FLAGS] SERVICE", "Change a service", exactly(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if err := wait.check(); err != nil {
			return err
		}
		if back {
			if err := onlyRollback(cmd); err != nil {
				return err
			}
			return c.rollback(ctx, a, &pb.RollbackServiceRequest{Ref: args[0], IfVersion: ifVersion}, wait)
		}
		var warnings []string
		updated, err := c.changeService(ctx, a, args[0], ifVersion, func(old *pb.ServiceSpec) (*pb.ServiceSpec, error) {
			s, err := flags.Update(old, c.environment())
			if err != nil {
				return nil, err
			}
			warnings, err = c.prepare(ctx, s, images, cmd.Flags().Changed("image"))
			return s, err
		})
		if err != nil {
			return err
		}
		c.warn(warnings)
		fmt.Fprintln(c.stdout, args[0])
		return c.wait(ctx, a, updated, wait)
	})
	flags = spec.UpdateFlags(cmd.Flags())
	for _, name := range []string{"network-add", "network-rm"} {
		cmd.RegisterFlagCompletionFunc(name, c.completing(serviceNetworks))
	}
	images.register(cmd)
	wait.register(cmd)
	ifVersionFlag(cmd, &ifVersion)
	cmd.Flags().BoolVar(&back, "rollback", false, "put the version before in place again, as service rollback does")
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

// onlyRollback refuses settings beside --rollback, which has all of them from
// the version before.
func onlyRollback(cmd *cobra.Command) (err error) {
	allowed := " rollback if-version detach quiet progress timeout host identity "
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if !strings.Contains(allowed, " "+f.Name+" ") {
			err = fault.New(fault.Invalid, "--%s cannot be combined with --rollback", f.Name).
				WithTry("minictl service rollback SERVICE, then minictl service update")
		}
	})
	return err
}

// changeService reads a service, changes its spec and writes it, again if
// somebody else was faster, but not if it has to be at a version that is not 0.
func (c *cli) changeService(ctx context.Context, a *api, ref string, ifVersion uint64, change func(*pb.ServiceSpec) (*pb.ServiceSpec, error)) (*pb.Service, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var updated *pb.Service
	err := retryStale(func() error {
		old, err := a.control.GetService(ctx, &pb.GetRequest{Ref: ref})
		if err != nil {
			return err
		}
		s, err := change(old.Spec)
		if err != nil {
			return err
		}
		resp, err := a.control.UpdateService(ctx, &pb.UpdateServiceRequest{Ref: old.Id, IfVersion: cmp.Or(ifVersion, old.Meta.GetVersion()), Spec: s})
		if err != nil {
			return err
		}
		c.warn(resp.Warnings)
		updated = resp.Service
		return nil
	})
	return updated, err
}

func (c *cli) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(c.stderr, "Warning: %s\n", print.Clean(w))
	}
}

// prepare completes a spec with what the client finds out: the image's digest,
// and credentials. Its warnings are for when the service is accepted.
func (c *cli) prepare(ctx context.Context, s *pb.ServiceSpec, images imageFlags, newImage bool) (warnings []string, err error) {
	container := s.Task.Container
	if !newImage && !images.sendAuth {
		return nil, nil
	}
	image, err := registry.Normalize(container.Image)
	if err != nil {
		return nil, err
	}
	login, err := c.login(ctx, image)
	if err != nil {
		warnings = append(warnings, err.Error())
	}
	if images.sendAuth {
		if container.PullAuth, err = registry.PullAuth(image, login); err != nil {
			return nil, err
		}
	}
	if newImage {
		container.Image, container.Platforms = image, nil
		if !images.noResolve && !resolveImage(ctx, container, login) {
			warnings = append(warnings, fmt.Sprintf("image %s could not be accessed on a registry to record its digest: nodes will look it up, and may run different versions of it",
				print.Image(image, false)))
		}
	}
	return warnings, nil
}

// login finds the user's credentials for an image; without a readable docker
// configuration there are none.
func (c *cli) login(ctx context.Context, image string) (auth.Credential, error) {
	dir := c.env("DOCKER_CONFIG")
	if dir == "" {
		dir = filepath.Join(c.env("HOME"), ".docker")
	}
	return registry.Login(ctx, filepath.Join(dir, "config.json"), image)
}

// resolveImage pins the image to its digest if the registry answers. Nodes may
// reach registries that the client does not.
func resolveImage(ctx context.Context, container *pb.ContainerSpec, login auth.Credential) bool {
	found, err := registry.Resolve(ctx, container.Image, login)
	if err != nil {
		return false
	}
	container.Image, container.Platforms = found.Reference, found.Platforms
	return true
}

func (c *cli) serviceScale() *cobra.Command {
	var wait waitFlags
	cmd := c.streaming("scale [FLAGS] SERVICE=REPLICAS...", "Change the number of tasks", atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		if err := wait.check(); err != nil {
			return err
		}
		var scaled []*pb.Service
		failures := each(args, func(arg string) error {
			s, err := c.scale(ctx, a, arg)
			if err == nil {
				scaled = append(scaled, s)
			}
			return err
		})
		for _, s := range scaled {
			failures = errors.Join(failures, c.wait(ctx, a, s, wait))
		}
		return failures
	})
	wait.register(cmd)
	cmd.ValidArgsFunction = c.completeScale
	return cmd
}

func (c *cli) scale(ctx context.Context, a *api, arg string) (*pb.Service, error) {
	name, number, ok := strings.Cut(arg, "=")
	n, err := strconv.ParseUint(number, 10, 32)
	if !ok || name == "" || err != nil {
		return nil, fault.New(fault.Invalid, "invalid scale %q: expected SERVICE=REPLICAS", arg)
	}
	s, err := c.changeService(ctx, a, name, 0, func(old *pb.ServiceSpec) (*pb.ServiceSpec, error) {
		if err := spec.SetReplicas(old, n); err != nil {
			return nil, fault.New(fault.Invalid, "cannot scale service %q: %w", name, err)
		}
		return old, nil
	})
	if err == nil {
		fmt.Fprintf(c.stdout, "%s scaled to %d\n", name, n)
	}
	return s, err
}
