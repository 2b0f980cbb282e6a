package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// maxPayload is above every limit of the server, whose error is better than
// running out of memory here.
const maxPayload = 4 << 20

// fileSpec is what the specs of secrets and configs have in common.
type fileSpec interface {
	GetName() string
	GetLabels() map[string]string
}

// fileObject is a secret or a config.
type fileObject interface {
	proto.Message
	GetId() string
	GetMeta() *pb.Meta
}

// fileKind is how secrets or configs are reached: both are named files.
type fileKind[T fileObject] struct {
	noun   string
	kind   pb.Kind
	spec   func(T) fileSpec
	create func(ctx context.Context, a *api, name string, labels map[string]string, data []byte) (T, error)
	list   func(ctx context.Context, a *api, filters []*pb.Filter) ([]T, error)
	get    func(ctx context.Context, a *api, ref string) (T, error)
	remove func(ctx context.Context, a *api, ref string) error
	fields func(T) any
	pretty func(w io.Writer, item T)
	names  namer
}

func (c *cli) secretCommand() *cobra.Command {
	return fileCommands(c, fileKind[*pb.Secret]{
		noun: "secret", kind: pb.Kind_KIND_SECRET,
		spec: func(s *pb.Secret) fileSpec { return s.GetSpec() },
		create: func(ctx context.Context, a *api, name string, labels map[string]string, data []byte) (*pb.Secret, error) {
			return a.control.CreateSecret(ctx, &pb.CreateSecretRequest{Spec: &pb.SecretSpec{Name: name, Labels: labels, Data: data}})
		},
		list: func(ctx context.Context, a *api, filters []*pb.Filter) ([]*pb.Secret, error) {
			resp, err := a.control.ListSecrets(ctx, &pb.ListRequest{Filters: filters})
			return resp.GetSecrets(), err
		},
		get: func(ctx context.Context, a *api, ref string) (*pb.Secret, error) {
			s, err := a.control.GetSecret(ctx, &pb.GetRequest{Ref: ref})
			if s.GetSpec() != nil {
				s.Spec.Data = nil // the server clears it; never show it even if it did not
			}
			return s, err
		},
		remove: func(ctx context.Context, a *api, ref string) error {
			_, err := a.control.RemoveSecret(ctx, &pb.RemoveRequest{Ref: ref})
			return err
		},
		fields: func(s *pb.Secret) any {
			return struct {
				*pb.Secret
				ID string
			}{s, s.Id}
		},
		pretty: func(w io.Writer, s *pb.Secret) { prettyFile(w, s.Id, s.GetMeta(), s.GetSpec()) },
		names:  secretNames,
	})
}

func (c *cli) configCommand() *cobra.Command {
	return fileCommands(c, fileKind[*pb.Config]{
		noun: "config", kind: pb.Kind_KIND_CONFIG,
		spec: func(s *pb.Config) fileSpec { return s.GetSpec() },
		create: func(ctx context.Context, a *api, name string, labels map[string]string, data []byte) (*pb.Config, error) {
			return a.control.CreateConfig(ctx, &pb.CreateConfigRequest{Spec: &pb.ConfigSpec{Name: name, Labels: labels, Data: data}})
		},
		list: func(ctx context.Context, a *api, filters []*pb.Filter) ([]*pb.Config, error) {
			resp, err := a.control.ListConfigs(ctx, &pb.ListRequest{Filters: filters})
			return resp.GetConfigs(), err
		},
		get: func(ctx context.Context, a *api, ref string) (*pb.Config, error) {
			return a.control.GetConfig(ctx, &pb.GetRequest{Ref: ref})
		},
		remove: func(ctx context.Context, a *api, ref string) error {
			_, err := a.control.RemoveConfig(ctx, &pb.RemoveRequest{Ref: ref})
			return err
		},
		fields: func(s *pb.Config) any {
			return struct {
				*pb.Config
				ID string
			}{s, s.Id}
		},
		pretty: func(w io.Writer, s *pb.Config) {
			prettyFile(w, s.Id, s.GetMeta(), s.GetSpec())
			fmt.Fprintf(w, "Data:\n%s\n", s.GetSpec().GetData())
		},
		names: configNames,
	})
}

func prettyFile(w io.Writer, id string, meta *pb.Meta, s fileSpec) {
	p := prettyPrinter{w}
	p.line(0, "ID", id)
	p.line(0, "Name", s.GetName())
	p.labels(0, s.GetLabels())
	p.line(0, "Created at", timeText(meta.GetCreatedAt()))
	p.line(0, "Updated at", timeText(meta.GetUpdatedAt()))
}

func fileCommands[T fileObject](c *cli, k fileKind[T]) *cobra.Command {
	return c.group(k.noun, "Manage "+k.noun+"s", fileCreate(c, k), fileList(c, k), fileInspect(c, k), fileRemove(c, k))
}

func fileCreate[T fileObject](c *cli, k fileKind[T]) *cobra.Command {
	var labels []string
	cmd := c.command("create [FLAGS] NAME FILE|-", "Make a "+k.noun+" from a file or stdin", exactly(2), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		var labelMap map[string]string
		if err := changeLabels(&labelMap, nil, labels); err != nil {
			return err
		}
		data, err := c.readFile(args[1])
		if err != nil {
			return fmt.Errorf("read %s: %w", k.noun, err)
		}
		item, err := k.create(ctx, a, args[0], labelMap, data)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, item.GetId())
		return nil
	})
	cmd.Flags().StringArrayVarP(&labels, "label", "l", nil, "label KEY=VALUE")
	return cmd
}

// readFile reads a file, or stdin for "-".
func (c *cli) readFile(path string) ([]byte, error) {
	in := c.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxPayload+1))
	if len(data) > maxPayload {
		return nil, fault.New(fault.Invalid, "%s is larger than %d MiB", path, maxPayload>>20)
	}
	return data, err
}

func fileList[T fileObject](c *cli, k fileKind[T]) *cobra.Command {
	return listCommand(c, listed[T]{
		short: "List " + k.noun + "s", kinds: []pb.Kind{k.kind},
		columns: func(context.Context, *api) print.List[T] { return fileColumns(c, k) },
		rows:    k.list,
		name:    func(item T) string { return k.spec(item).GetName() },
	})
}

func fileColumns[T fileObject](c *cli, k fileKind[T]) print.List[T] {
	return print.List[T]{
		ID:     T.GetId,
		Object: func(item T) proto.Message { return item },
		Columns: []print.Column[T]{
			{Field: "ID", Header: "ID", Value: func(item T, _ bool) string { return item.GetId() }},
			{Field: "Name", Header: "NAME", Value: func(item T, _ bool) string { return k.spec(item).GetName() }},
			{Field: "CreatedAt", Header: "CREATED", Value: func(item T, _ bool) string { return print.Ago(item.GetMeta().GetCreatedAt(), c.now()) }},
			{Field: "UpdatedAt", Header: "UPDATED", Value: func(item T, _ bool) string { return print.Ago(item.GetMeta().GetUpdatedAt(), c.now()) }},
			{Field: "Labels", Header: "LABELS", Wide: true, Value: func(item T, _ bool) string { return labelText(k.spec(item).GetLabels()) }},
		},
	}
}

func fileInspect[T fileObject](c *cli, k fileKind[T]) *cobra.Command {
	return inspectCommand(c, inspected[T]{
		what: strings.ToUpper(k.noun), short: "Show " + k.noun + "s whole", names: k.names,
		get: k.get, fields: k.fields, pretty: k.pretty,
	})
}

func fileRemove[T fileObject](c *cli, k fileKind[T]) *cobra.Command {
	return c.removeCommand(removed{what: strings.ToUpper(k.noun), short: "Remove " + k.noun + "s", names: k.names, remove: k.remove})
}
