package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/minid/minid/fault"
)

// Server answers the questions of all tasks of a node.
type Server struct {
	logger  *slog.Logger
	forward *forwarder
	// turn counts questions, for the order of addresses.
	turn atomic.Uint64

	names sync.RWMutex
	zones zones

	// mu guards what follows.
	mu    sync.Mutex
	tasks map[string]*listener
	// ctx is Run's while that runs.
	ctx   context.Context
	serve sync.WaitGroup
	ended bool
}

// New makes a Server. Tasks may be opened at once; they are answered from Run on.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Upstreams == nil {
		cfg.Upstreams = HostServers(hostConfig)
	}
	return &Server{
		logger: cfg.Logger, forward: newForwarder(cfg.Upstreams, exchange),
		zones: make(zones), tasks: make(map[string]*listener),
	}
}

// Run answers until ctx ends, then closes all sockets. Tables stay, for whoever
// takes over.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.ctx != nil || s.ended {
		s.mu.Unlock()
		return fault.New(fault.State, "run the name server: it runs only once")
	}
	s.ctx = ctx
	for _, l := range s.tasks {
		s.start(l)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ended = true
	var errs []error
	for _, l := range s.tasks {
		errs = append(errs, l.close())
	}
	clear(s.tasks)
	s.mu.Unlock()
	s.serve.Wait()
	return errors.Join(errs...)
}

// start serves a listener's sockets until they are closed. The caller holds mu.
func (s *Server) start(l *listener) {
	s.serve.Go(func() { s.serveUDP(s.ctx, l) })
	s.serve.Go(func() { s.serveTCP(s.ctx, l) })
}

// Open answers a task's questions, and mends what someone else changed in its
// namespace. It may be repeated with a changed Task.
func (s *Server) Open(t Task) error {
	t = withoutItself(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return fault.New(fault.State, "answer names of task %s: the name server has ended", t.ID)
	}
	l := s.tasks[t.ID]
	if l != nil && !l.in(t.Netns) {
		s.logger.Warn("task has another network namespace than before", "task", t.ID)
		delete(s.tasks, t.ID)
		if err := l.close(); err != nil {
			return fmt.Errorf("close name server of task %s: %w", t.ID, err)
		}
		l = nil
	}
	if l != nil {
		l.task.Store(&t)
		return l.ports.set(t.Netns)
	}
	l, err := listen(t)
	if err != nil {
		return fmt.Errorf("answer names of task %s: %w", t.ID, err)
	}
	if err := l.ports.set(t.Netns); err != nil {
		return errors.Join(fmt.Errorf("answer names of task %s: %w", t.ID, err), l.close())
	}
	s.tasks[t.ID] = l
	if s.ctx != nil {
		s.start(l)
	}
	return nil
}

// withoutItself is t without this server among those to be asked.
func withoutItself(t Task) Task {
	t.Servers = slices.DeleteFunc(slices.Clone(t.Servers), func(a netip.AddrPort) bool { return a.Addr() == Address })
	return t
}

// Close ends answering a task. Its table ends with its namespace: deleting it
// before would take 10 ms of each task's end. A task that is not open is no error.
func (s *Server) Close(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.tasks[id]
	if l == nil {
		return nil
	}
	delete(s.tasks, id)
	return l.close()
}

// Check tells whether a task's sockets and table are as Open made them.
func (s *Server) Check(id string) (bool, error) {
	s.mu.Lock()
	l := s.tasks[id]
	s.mu.Unlock()
	if l == nil || !l.in(l.task.Load().Netns) {
		return false, nil
	}
	return l.ports.check(l.task.Load().Netns)
}

// Set replaces all names: services by network and their id.
func (s *Server) Set(networks map[string]map[string]Service) {
	zs := newZones(networks)
	s.names.Lock()
	defer s.names.Unlock()
	s.zones = zs
}

// Change puts and removes services of one network.
func (s *Server) Change(network string, put []Service, remove []string) {
	s.names.Lock()
	defer s.names.Unlock()
	s.zones.change(network, put, remove)
}
