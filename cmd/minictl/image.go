package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	pb "github.com/minid/minid/proto/minid/v1"
)

// loadChunk is how much of an archive travels at a time.
const loadChunk = 1 << 20

func (c *cli) imageCommand() *cobra.Command {
	return c.group("image", "Manage the images of the connected node", c.imageLoad(), c.imageList(), c.imageRemove())
}

func (c *cli) imageLoad() *cobra.Command {
	var path string
	cmd := c.streaming("load [FLAGS]", "Load images from a docker or OCI archive", exactly(0), func(ctx context.Context, _ []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		in := c.stdin
		if path != "-" {
			f, err := os.Open(path)
			if err != nil {
				return fmt.Errorf("load image: %w", err)
			}
			defer f.Close()
			in = f
		}
		resp, err := a.loadImage(ctx, in)
		if err != nil {
			return err
		}
		for _, image := range resp.Images {
			fmt.Fprintf(c.stdout, "Loaded image: %s\n", print.Image(image.Name, true))
		}
		return nil
	})
	cmd.Flags().StringVarP(&path, "input", "i", "-", "archive to read, - for stdin")
	return cmd
}

func (a *api) loadImage(ctx context.Context, in io.Reader) (*pb.LoadImageResponse, error) {
	stream, err := a.local.LoadImage(ctx)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, loadChunk)
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			sendErr := stream.Send(&pb.LoadImageRequest{Chunk: buf[:n]})
			if errors.Is(sendErr, io.EOF) {
				break // the node refused; its answer says why
			}
			if sendErr != nil {
				return nil, sendErr
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
	}
	return stream.CloseAndRecv()
}

func (c *cli) imageList() *cobra.Command {
	return listCommand(c, listed[*pb.Image]{
		short:   "List images",
		columns: func(context.Context, *api) print.List[*pb.Image] { return c.imageColumns() },
		rows: func(ctx context.Context, a *api, _ []*pb.Filter) ([]*pb.Image, error) {
			resp, err := a.local.ListImages(ctx, &pb.ListImagesRequest{})
			return resp.GetImages(), err
		},
		name: (*pb.Image).GetName,
	})
}

func (c *cli) imageColumns() print.List[*pb.Image] {
	digest := func(i *pb.Image, whole bool) string {
		if whole {
			return i.Digest
		}
		_, hex, _ := strings.Cut(i.Digest, ":")
		return print.ID(hex, false)
	}
	return print.List[*pb.Image]{
		ID:     (*pb.Image).GetDigest,
		Object: func(i *pb.Image) proto.Message { return i },
		Columns: []print.Column[*pb.Image]{
			{Field: "Name", Header: "IMAGE", Value: func(i *pb.Image, whole bool) string { return print.Image(i.Name, whole) }},
			{Field: "Digest", Header: "DIGEST", Value: digest},
			{Field: "CreatedAt", Header: "CREATED", Value: func(i *pb.Image, _ bool) string { return print.Ago(i.CreatedAt, c.now()) }},
			{Field: "Size", Header: "SIZE", Value: func(i *pb.Image, _ bool) string { return units.HumanSizeWithPrecision(float64(i.SizeBytes), 3) }},
		},
	}
}

func (c *cli) imageRemove() *cobra.Command {
	var force bool
	cmd := c.removeCommand(removed{
		what: "[FLAGS] IMAGE", short: "Remove images", names: imageNames,
		remove: func(ctx context.Context, a *api, name string) error {
			_, err := a.local.RemoveImage(ctx, &pb.RemoveImageRequest{Name: name, Force: force})
			return err
		},
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if a task uses it")
	return cmd
}
