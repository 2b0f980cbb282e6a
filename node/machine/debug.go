package machine

import (
	"strings"

	"google.golang.org/grpc"

	"github.com/minid/minid/network"
	pb "github.com/minid/minid/proto/minid/v1"
)

// pieceSize is how much text of each kind goes into one message, in bytes.
const pieceSize = 1 << 20

// local answers what is asked of the machine by the control socket.
type local struct {
	imageServer
	network *network.Engine
}

// DebugNetwork sends the parts of the network as they should be and as they are.
func (s *local) DebugNetwork(req *pb.DebugNetworkRequest, stream grpc.ServerStreamingServer[pb.NetworkPart]) error {
	return s.network.Debug(req.GetPart(), func(p network.Part) error {
		for {
			piece := &pb.NetworkPart{Name: p.Name, Intact: p.Intact, Problem: p.Problem}
			piece.Wanted, p.Wanted = cut(p.Wanted)
			piece.Actual, p.Actual = cut(p.Actual)
			if err := stream.Send(piece); err != nil || p.Wanted == "" && p.Actual == "" {
				return err
			}
		}
	})
}

// cut divides a text after a line, so that the first part is not too large.
func cut(text string) (first, rest string) {
	if len(text) <= pieceSize {
		return text, ""
	}
	end := strings.LastIndexByte(text[:pieceSize], '\n') + 1
	if end == 0 {
		end = len(text)
	}
	return text[:end], text[end:]
}
