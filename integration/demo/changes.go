package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/minid/minid/integration/cluster"
	"github.com/minid/minid/integration/sample/image"
)

// push uploads an image to the registry in the hub.
func (t *tour) push(ctx context.Context, ref string, img v1.Image) error {
	_, err := image.Push(ctx, ref, img, remote.WithTransport(t.outside()))
	return err
}

// update shows that a rolling update costs no client a request, whichever node
// it calls.
func (t *tour) update(ctx context.Context) error {
	if err := t.answersEverywhere(ctx); err != nil {
		return err
	}
	clients := t.startClients(ctx, t.c.Nodes())
	defer clients.stop()
	if _, err := t.minictl(ctx, "service", "update", "--image", t.imageRef("v2"), "web"); err != nil {
		return err
	}
	if _, err := t.ctl.AwaitRunning(ctx, "web", 3, 30*time.Second); err != nil {
		return err
	}
	clients.stop()
	fmt.Printf("\n    meanwhile %s\n", clients)
	if clients.failed > 0 {
		return fmt.Errorf("%d requests failed, the first with: %w", clients.failed, clients.first)
	}
	for _, n := range t.c.Nodes() {
		body, err := t.get(ctx, pageAt(n))
		if err != nil {
			return err
		}
		if !strings.Contains(body, "version=v2") {
			return fmt.Errorf("not version 2 answers at %s: %s", n.Name, body)
		}
	}
	_, err := t.minictl(ctx, "service", "ps", "web")
	return err
}

func (t *tour) logs(ctx context.Context) error {
	res, err := t.minictl(ctx, "service", "logs", "--timestamps", "--tail", "1", "web")
	if err != nil {
		return err
	}
	last := ""
	for line := range strings.Lines(res.Stdout) {
		at, _, _ := strings.Cut(line, " ")
		if at < last {
			return fmt.Errorf("the log is out of order at %s", line)
		}
		last = at
	}
	if last == "" {
		return errors.New("the log is empty")
	}
	return nil
}

func (t *tour) secret(ctx context.Context) error {
	if _, err := t.minictlInput(ctx, "open sesame", "secret", "create", "password", "-"); err != nil {
		return err
	}
	if _, err := t.minictl(ctx, "service", "update", "--secret-add", "password", "client"); err != nil {
		return err
	}
	res, err := t.minictl(ctx, "exec", "client", "--", "sample", "cat", "/run/secrets/password")
	if err == nil && !strings.Contains(res.Stdout, "open sesame") {
		err = fmt.Errorf("the task reads %q", res.Stdout)
	}
	return err
}

func (t *tour) why(ctx context.Context) error {
	res, err := t.minictl(ctx, "service", "create", "--name", "picky", "--constraint", "node.labels.disk==ssd", "--timeout", "3s", t.imageRef("v1"))
	if err == nil || res.Code != 5 {
		return fmt.Errorf("a service that fits nowhere ended with exit code %d", res.Code)
	}
	fmt.Printf("    (exit code %d)\n", res.Code)
	if _, err := t.minictl(ctx, "task", "why", "picky.1"); err != nil {
		return err
	}
	if _, err := t.minictl(ctx, "node", "update", "--label-add", "disk=ssd", "n4"); err != nil {
		return err
	}
	if _, err := t.ctl.AwaitRunning(ctx, "picky", 1, 30*time.Second); err != nil {
		return err
	}
	_, err = t.minictl(ctx, "service", "ps", "picky")
	return err
}

func (t *tour) remove(ctx context.Context) error {
	if _, err := t.minictl(ctx, "service", "rm", "web", "client", "picky"); err != nil {
		return err
	}
	if err := cluster.Await(ctx, 40*time.Second, func() error {
		res, err := t.ctl.Ctl(ctx, "service", "ls", "-q")
		if err == nil && strings.TrimSpace(res.Stdout) != "" {
			err = errors.New("services are left: " + res.Stdout)
		}
		return err
	}); err != nil {
		return err
	}
	if _, err := t.minictl(ctx, "secret", "rm", "password"); err != nil {
		return err
	}
	if _, err := t.minictl(ctx, "network", "rm", "front"); err != nil {
		return err
	}
	_, err := t.minictl(ctx, "service", "ls")
	return err
}
