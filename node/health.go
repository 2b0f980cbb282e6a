package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// Notifier hears how the node is, as sd_notify(3) wants it: READY=1, STATUS=….
type Notifier func(state string)

// notifyEvery is how often the service manager may hear news.
const notifyEvery = time.Second

// notify tells the service manager that the control socket is open, what the
// node does, that it is alive, and that it stops.
func (n *Node) notify(ctx context.Context) error {
	n.host.Notify("READY=1")
	defer n.host.Notify("STOPPING=1")
	last := ""
	for {
		if now := n.status(); now != last {
			n.host.Notify("STATUS=" + now)
			last = now
		}
		// Whoever gets here holds none of the node's locks, nor waits for one.
		n.host.Notify("WATCHDOG=1")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(notifyEvery):
		}
	}
}

// status is the node in a few words.
func (n *Node) status() string {
	m, err := n.present()
	if err != nil {
		return "in no cluster"
	}
	text := "worker"
	if m.isManager() {
		text = "manager"
	}
	if c := m.manager(); c != nil && c.manager.Leader().Self {
		text += ", leader"
	}
	tasks := m.running()
	text += fmt.Sprintf(", %d tasks", tasks)
	if tasks == 1 {
		text = text[:len(text)-1]
	}
	if err := n.ready(); err != nil {
		text += "; " + err.Error()
	}
	return text
}

// ready is nil while the node takes part in a cluster: its agent has a session
// and, on a manager, the leader is known. Otherwise it says what is missing.
func (n *Node) ready() error {
	m, err := n.present()
	if err != nil {
		return err
	}
	if err := m.problem(); err != nil {
		return err
	}
	if !m.isManager() {
		return nil
	}
	if c := m.manager(); c == nil {
		return errors.New("the manager is starting")
	} else if c.manager.Leader() == (rpc.Leader{}) {
		return errors.New("the managers have no leader")
	}
	return nil
}

// withTry is an error and what to do about it, in one line.
func withTry(err error) string {
	if try := fault.TryOf(err); try != "" {
		return err.Error() + " (try: " + try + ")"
	}
	return err.Error()
}

// serveMetrics answers on --metrics-addr: /metrics for Prometheus, /healthz
// while the process lives, /readyz while the node is ready.
func (n *Node) serveMetrics(ctx context.Context) error {
	if n.cfg.MetricsAddr == "" {
		return nil
	}
	port, err := n.host.Listen(n.cfg.MetricsAddr)
	if err != nil {
		return fault.New(fault.Unavailable, "cannot open the metrics port: %w", err).
			WithTry("stop what uses %s, or start minid with another --metrics-addr", n.cfg.MetricsAddr)
	}
	server := &http.Server{
		Handler:           n.metricsHandler(),
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(port); ctx.Err() == nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

func (n *Node) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collector{n},
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Timeout: 20 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.ready(); err != nil {
			http.Error(w, withTry(err), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, n.status())
	})
	return mux
}

// roleLabel is a node's role as a label.
func roleLabel(role pb.NodeRole) string {
	switch role {
	case pb.NodeRole_NODE_ROLE_MANAGER:
		return "manager"
	case pb.NodeRole_NODE_ROLE_WORKER:
		return "worker"
	}
	return "none"
}
