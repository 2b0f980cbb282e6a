package orchestrator

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// maxEntry bounds the commands of one proposal, in bytes.
	maxEntry = 1 << 20
	// maxCommand bounds the tasks of one command, so that entries fill evenly.
	maxCommand = 1000
	// maxInFlight bounds the proposals that wait for their commit.
	maxInFlight = 8
	// proposeTimeout bounds the wait for one.
	proposeTimeout = 30 * time.Second
)

// Proposer commits commands and returns one refusal or nil per command; its
// error means that the commit did not happen or is not known.
type Proposer func(ctx context.Context, cmds ...*pb.Command) ([]error, error)

// proposals gathers the plans of one round into entries.
type proposals struct {
	entries [][]*pb.Command
	size    int // of the last entry
}

func (p *proposals) add(service *pb.Service, plan Plan) {
	for _, c := range plan.commands(service.Id) {
		size := proto.Size(c)
		if len(p.entries) == 0 || p.size+size > maxEntry {
			p.entries, p.size = append(p.entries, nil), 0
		}
		last := len(p.entries) - 1
		p.entries[last] = append(p.entries[last], c)
		p.size += size
	}
}

// commands turns a plan into what the store understands.
func (p Plan) commands(service string) (cmds []*pb.Command) {
	if p.Update != nil {
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_SetUpdateStatus{
			SetUpdateStatus: &pb.SetUpdateStatus{Id: service, Status: p.Update}}})
	}
	if p.Rollback != nil {
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_RollbackService{RollbackService: p.Rollback}})
	}
	if p.Rebalance != nil {
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_SetRebalance{
			SetRebalance: &pb.SetRebalance{Id: service, Rebalance: p.Rebalance}}})
	}
	if p.Job != nil {
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_SetJobStatus{SetJobStatus: p.Job}})
	}
	if p.Remove != nil {
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_RemoveService{RemoveService: p.Remove}})
	}
	for d := range slices.Chunk(p.Desired, maxCommand) {
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: d}}})
	}
	for t := range slices.Chunk(p.Create, maxCommand) {
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: t}}})
	}
	return cmds
}

// carryOut proposes all entries, several at a time: none depends on another,
// and what fails is found missing in the next round.
func (p *proposals) carryOut(ctx context.Context, propose Proposer, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	var wg sync.WaitGroup
	free := make(chan struct{}, maxInFlight)
	for _, cmds := range p.entries {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			refused, err := propose(ctx, cmds...)
			if err != nil && ctx.Err() == nil {
				log.Warn("propose tasks", "commands", len(cmds), "error", err)
			}
			for _, err := range refused {
				if err != nil {
					log.Debug("tasks refused", "error", err)
				}
			}
		})
	}
	wg.Wait()
}
