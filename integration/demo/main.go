// Command demo shows minid at work: three managers and two workers on this
// host, each in its own network namespace with its own containerd, run real
// containers, heal, and survive the loss of their leader.
//
// KEEP=1 leaves the cluster up after the tour until Ctrl-C.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/minid/minid/integration/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\nError:", err)
		stop()
		os.Exit(1)
	}
}

// tourTime bounds the whole tour.
const tourTime = 8 * time.Minute

func run(ctx context.Context) error {
	began := time.Now()
	c, err := cluster.New(cluster.Options{Bin: "bin", Log: os.Stdout})
	if err != nil {
		return err
	}
	defer c.Close()
	t := &tour{c: c}
	limited, cancel := context.WithTimeout(ctx, tourTime)
	defer cancel()
	for _, step := range t.steps() {
		t.heading(step.title)
		if err := step.do(limited); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	fmt.Printf("\nFinished all in %.0f s.\n", time.Since(began).Seconds())
	if os.Getenv("KEEP") != "" {
		t.keep(ctx)
	}
	return nil
}

// keep leaves the cluster to the user.
func (t *tour) keep(ctx context.Context) {
	fmt.Println("\nThe cluster stays up until Ctrl-C. Each node is a network namespace; choose one to talk to:")
	for _, n := range t.c.Nodes() {
		fmt.Printf("  export MINICTL_HOST=%s   # %s, %s\n", n.Socket(), n.Name, n.Addr)
	}
	nodes := t.c.Nodes()
	last := nodes[len(nodes)-1]
	fmt.Printf(`A service with a network and a published port:
  bin/minictl network create front
  bin/minictl service create --name web --replicas 3 --network front --publish 8080:8080 %s
A published port answers at every node, from outside and on the node itself:
  nsenter --net=%s/hub.ns curl http://%s:8080/
  nsenter --net=%s/%s.ns curl http://127.0.0.1:8080/
What the nodes find of their network, and what one wants of its kernel beside what that has:
  bin/minictl network check
  bin/minid debug network --run-dir %s
`, t.imageRef("v2"), t.c.Dir(), last.Addr, t.c.Dir(), last.Name, last.RunDir())
	<-ctx.Done()
	fmt.Println("\nclearing up")
}
