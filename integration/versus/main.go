// Command versus tells the same stories to Docker Swarm and to minid, in turns
// on this host, and prints what both need for them. It exits with 1 when minid
// misses a target.
//
// Each story gets fresh machines (network namespaces with a containerd of
// their own), of one system at a time; the other one is not running. Both run
// with their defaults, pull the same image from the same registry beforehand,
// and are watched through their APIs in the same way. A lost machine loses its
// link and all its processes at once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 3, "how often quick stories are told; slow ones are told once, or as often as this is set")
	only := flag.String("only", "", "tell only the story with this row: start, stop, update, watched, memory, worker, leader, host")
	write := flag.Bool("write", false, "write the results to docs/versus.md")
	keep := flag.Bool("keep", false, "keep the machines' directories with their logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	slow := 1
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "rounds" {
			slow = *rounds
		}
	})
	if err := run(ctx, plan{rounds: *rounds, slow: slow, only: *only, write: *write, keep: *keep}); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		os.Exit(1)
	}
}

// plan is what the flags say.
type plan struct {
	// rounds is for quick stories, slow for slow ones.
	rounds, slow int
	only         string
	write, keep  bool
}

func run(ctx context.Context, p plan) error {
	told, err := p.choose(stories())
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("versus makes network namespaces and runs containers: run it as root")
	}
	if err := installDocker(ctx); err != nil {
		return err
	}
	w, err := newWorld(ctx, "bin", p.keep)
	if err != nil {
		return err
	}
	var rows []*row
	var failed []error
	busy := load()
	for _, s := range told {
		rows = append(rows, s.rows...)
		failed = append(failed, p.tell(ctx, w, s))
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	text := table(rows)
	fmt.Print("\n" + text)
	if p.write {
		err := os.WriteFile(filepath.Join("docs", "versus.md"), []byte(page(ctx, busy, text)), 0o644)
		failed = append(failed, err)
	}
	for _, r := range rows {
		if !r.met() {
			failed = append(failed, fmt.Errorf("target missed: %s", r.title))
		}
	}
	return errors.Join(failed...)
}

// choose keeps the story that has the row asked for.
func (p plan) choose(all []story) ([]story, error) {
	if p.only == "" {
		return all, nil
	}
	var ids []string
	for _, s := range all {
		for _, r := range s.rows {
			if r.id == p.only {
				return []story{s}, nil
			}
			ids = append(ids, r.id)
		}
	}
	return nil, fmt.Errorf("no row %q: there are %s", p.only, strings.Join(ids, ", "))
}

// tell tells one story to both systems in turns.
func (p plan) tell(ctx context.Context, w *world, s story) error {
	rounds := p.rounds
	if s.slow {
		rounds = p.slow
	}
	var failed []error
	for range rounds {
		for _, sys := range []system{dockerSwarm, minidSwarm} {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			busy := load()
			samples, err := s.once(ctx, w, sys)
			if err != nil {
				failed = append(failed, fmt.Errorf("%s, %s: %w", s.rows[0].id, sys.name, err))
				fmt.Fprintln(os.Stderr, failed[len(failed)-1])
				continue
			}
			for i, r := range s.rows {
				r.add(sys.name, samples[i])
				fmt.Fprintf(os.Stderr, "%s  %-6s %-6s %7.2f %s  (load before: %s)\n", time.Now().Format(time.TimeOnly), r.id, sys.name, samples[i], r.unit, busy)
			}
		}
	}
	return errors.Join(failed...)
}

func (s story) once(ctx context.Context, w *world, sys system) ([]float64, error) {
	sw, err := sys.start(ctx, w, s.managers, s.workers)
	if err != nil {
		return nil, err
	}
	defer sw.close()
	return s.tell(ctx, sw)
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// page is docs/versus.md.
func page(ctx context.Context, busy, table string) string {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return fmt.Sprintf(`# minid and Docker Swarm

Measured by %[1]smake versus%[1]s on %[2]s, kernel %[3]s, %[4]d CPUs, dockerd %[5]s.
Medians, with the lowest and highest in brackets; both systems in turns on the
same host, with their defaults. The load average was %[7]s before the start: other
work on the host lengthens both systems' times. How: %[1]sintegration/versus%[1]s.

%[6]s`, "`", time.Now().UTC().Format(time.DateOnly), strings.TrimSpace(string(kernel)), runtime.NumCPU(), dockerVersion(ctx), table, busy)
}
