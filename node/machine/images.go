package machine

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/minid/minid/agent/containerd"
	pb "github.com/minid/minid/proto/minid/v1"
)

// imageServer answers for the node's images.
type imageServer struct {
	pb.UnimplementedLocalServer
	images *containerd.Images
}

// ListImages returns the node's images by name.
func (s *imageServer) ListImages(ctx context.Context, _ *pb.ListImagesRequest) (*pb.ListImagesResponse, error) {
	images, err := s.images.List(ctx)
	return &pb.ListImagesResponse{Images: images}, err
}

// LoadImage reads a docker or OCI archive from the stream.
func (s *imageServer) LoadImage(stream grpc.ClientStreamingServer[pb.LoadImageRequest, pb.LoadImageResponse]) error {
	images, err := s.images.Load(stream.Context(), &chunkReader{stream: stream})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&pb.LoadImageResponse{Images: images})
}

// RemoveImage deletes an image by name.
func (s *imageServer) RemoveImage(ctx context.Context, req *pb.RemoveImageRequest) (*pb.RemoveImageResponse, error) {
	return &pb.RemoveImageResponse{}, s.images.Remove(ctx, req.Name, req.Force)
}

// chunkReader reads the chunks of an upload.
type chunkReader struct {
	stream grpc.ClientStreamingServer[pb.LoadImageRequest, pb.LoadImageResponse]
	rest   []byte
}

// Read returns what is left of the present chunk, or the next one.
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		req, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		r.rest = req.Chunk
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
