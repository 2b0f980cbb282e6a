package dispatcher

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// gather is the least time between two rounds of proposals.
	gather = 20 * time.Millisecond
	// maxProposal bounds one proposal in bytes.
	maxProposal = 1 << 20
	// inFlight bounds the proposals that wait for their commit.
	inFlight = 4
	// retryAfter is the pause after a proposal that failed.
	retryAfter = 200 * time.Millisecond
)

// inbox is what an agent reported and the store does not have yet: the newest
// status of each task, so its size is bounded by the tasks, however long the
// store refuses writes.
type inbox struct {
	reports map[string]*pb.TaskStatusReport
	// Batches that are acknowledged once all of reports is committed.
	numbers     []uint64
	description *pb.NodeDescription
	// The node's own state or description is to be compared with the store.
	node bool
	// The reporter has the session in its queue or a proposal for it in
	// flight; never two, so that one node's reports stay in order.
	busy bool
}

func (s *session) report(batch *pb.StatusBatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in.reports == nil {
		s.in.reports = map[string]*pb.TaskStatusReport{}
	}
	for _, r := range batch.Reports {
		if old := s.in.reports[r.Id]; old == nil || old.GetStatus().GetState() <= r.GetStatus().GetState() {
			s.in.reports[r.Id] = r
		}
	}
	s.in.numbers = append(s.in.numbers, batch.Number)
}

func (s *session) describe(description *pb.NodeDescription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.description, s.in.node = description, true
}

func (s *session) dirtyNode() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.node = true
}

// pending tells whether something waits to be proposed. The caller holds s.mu.
func (s *session) pending() bool { return s.in.node || len(s.in.numbers) > 0 }

// outgoing is one session's share of a proposal.
type outgoing struct {
	s       *session
	cmds    []*pb.Command
	bytes   int
	numbers []uint64
}

// harvest takes what a session has to propose, a proposal's worth at most.
// Numbers are only taken with the last of the reports.
func (s *session) harvest(view store.View, now time.Time, log *slog.Logger) outgoing {
	o := outgoing{s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in.node {
		s.in.node = false
		if r := nodeReport(view.Node(s.node), s.in.description, s.addr, now); r != nil {
			o.add(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: r}})
		}
	}
	statuses := &pb.ReportStatuses{NodeId: s.node}
	size := o.bytes
	for _, id := range slices.Sorted(maps.Keys(s.in.reports)) {
		if size >= maxProposal {
			break
		}
		r := s.in.reports[id]
		delete(s.in.reports, id)
		task := view.Task(id)
		if task != nil && task.NodeId != s.node {
			log.Warn("status of another node's task", "node", s.node, "task", id)
			continue
		}
		if isNews(task, r.Status) {
			statuses.Reports = append(statuses.Reports, r)
			size += proto.Size(r)
		}
	}
	if len(statuses.Reports) > 0 {
		o.add(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: statuses}})
	}
	if len(s.in.reports) == 0 {
		o.numbers, s.in.numbers = s.in.numbers, nil
	}
	return o
}

func (o *outgoing) add(cmd *pb.Command) {
	o.cmds = append(o.cmds, cmd)
	o.bytes += proto.Size(cmd)
}

// isNews tells whether a report changes what the store has. An agent that
// reconnects repeats itself, and that costs no write.
func isNews(task *pb.Task, status *pb.TaskStatus) bool {
	if task == nil || status == nil {
		return false
	}
	have := task.GetStatus()
	if status.State != have.GetState() {
		return status.State > have.GetState()
	}
	same := status.Message == have.Message && status.Error == have.Error &&
		proto.Equal(status.Container, have.Container) && proto.Equal(status.Health, have.Health) &&
		slices.EqualFunc(status.Ports, have.Ports, func(x, y *pb.PortConfig) bool { return proto.Equal(x, y) })
	return !same
}

// nodeReport is what the store lacks of a node that is in session: that it is
// ready, where it is, what it says of itself. Nil if nothing.
func nodeReport(node *pb.Node, description *pb.NodeDescription, addr string, now time.Time) *pb.ReportNode {
	report := &pb.ReportNode{Id: node.GetId()}
	have := node.GetStatus()
	if have.GetState() != pb.NodeState_NODE_STATE_READY || have.GetAddr() != addr {
		report.Status = &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY, Addr: addr, Since: timestamppb.New(now)}
		if have.GetState() == pb.NodeState_NODE_STATE_READY {
			report.Status.Since = have.Since
		}
	}
	if description != nil && !proto.Equal(description, node.GetDescription()) {
		report.Description = description
	}
	if node == nil || report.Status == nil && report.Description == nil {
		return nil
	}
	return report
}

// reporter merges what all agents report into few proposals.
type reporter struct {
	cfg  *Config
	log  *slog.Logger
	wake chan struct{}

	mu    sync.Mutex
	queue []*session
}

func newReporter(cfg *Config) *reporter {
	return &reporter{cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1)}
}

// add queues a session that has something to report, unless it is there already.
func (r *reporter) add(s *session) {
	s.mu.Lock()
	add := s.pending() && !s.in.busy
	if add {
		s.in.busy = true
	}
	s.mu.Unlock()
	if !add {
		return
	}
	r.mu.Lock()
	r.queue = append(r.queue, s)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run proposes at once when it was idle, else in rounds of gather.
func (r *reporter) run(ctx context.Context) error {
	var flying sync.WaitGroup
	defer flying.Wait()
	slots := make(chan struct{}, inFlight)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.wake:
		}
		for _, proposal := range pack(r.round(), maxProposal) {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case slots <- struct{}{}:
			}
			flying.Go(func() {
				r.commit(ctx, proposal)
				<-slots
			})
		}
		pauseUnless(ctx.Done(), gather)
	}
}

// round harvests every queued session.
func (r *reporter) round() []outgoing {
	r.mu.Lock()
	queue := r.queue
	r.queue = nil
	r.mu.Unlock()
	view, now := r.cfg.State.View(), time.Now()
	round := make([]outgoing, 0, len(queue))
	for _, s := range queue {
		round = append(round, s.harvest(view, now, r.log))
	}
	return round
}

// pack divides shares into proposals of at most limit bytes, each of them at
// least one share.
func pack(shares []outgoing, limit int) [][]outgoing {
	var proposals [][]outgoing
	size := 0
	for _, o := range shares {
		if len(proposals) == 0 || size+o.bytes > limit {
			proposals = append(proposals, nil)
			size = 0
		}
		last := len(proposals) - 1
		proposals[last] = append(proposals[last], o)
		size += o.bytes
	}
	return proposals
}

// commit proposes until it succeeds or the term ends, then acknowledges.
func (r *reporter) commit(ctx context.Context, shares []outgoing) {
	var cmds []*pb.Command
	var from []*session
	for _, o := range shares {
		for _, cmd := range o.cmds {
			cmds = append(cmds, cmd)
			from = append(from, o.s)
		}
	}
	if len(cmds) > 0 {
		refused := r.insist(ctx, cmds)
		for i, err := range refused {
			r.refused(from[i], err)
		}
	}
	if ctx.Err() != nil {
		return
	}
	for _, o := range shares {
		if len(o.numbers) > 0 {
			o.s.ack(o.numbers)
		}
		o.s.mu.Lock()
		o.s.in.busy = false
		o.s.mu.Unlock()
		r.add(o.s)
	}
}

// insist proposes again after a failure: reports may be repeated, as the store
// takes no step back.
func (r *reporter) insist(ctx context.Context, cmds []*pb.Command) []error {
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
		refused, err := r.cfg.Propose(attempt, cmds...)
		cancel()
		if err == nil {
			return refused
		}
		if ctx.Err() == nil {
			r.log.Warn("report statuses", "commands", len(cmds), "error", err)
		}
		pauseUnless(ctx.Done(), retryAfter)
	}
	return nil
}

// refused ends the session of a node that is gone; other refusals leave the
// store as it is.
func (r *reporter) refused(s *session, err error) {
	switch {
	case err == nil:
	case fault.Is(err, fault.NotFound):
		s.end(removedError(s.node))
	default:
		r.log.Warn("report refused", "node", s.node, "error", err)
	}
}
