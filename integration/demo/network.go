package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/minid/minid/integration/cluster"
)

// pageAt is the published port of service web at a node.
func pageAt(n *cluster.Node) string { return fmt.Sprintf("http://%s:8080/", n.Addr) }

func (t *tour) callByName(ctx context.Context) error {
	_, err := t.minictl(ctx, "service", "create", "--name", "client", "--network", "front", "--constraint", "node.role==manager",
		t.imageRef("v1"), "sleep")
	if err != nil {
		return err
	}
	for name, want := range map[string]int{"web": 1, "tasks.web": 3} {
		if err := t.resolves(ctx, name, want); err != nil {
			return err
		}
	}
	for _, name := range []string{"web", "tasks.web"} {
		if _, err := t.inClient(ctx, "resolve", name); err != nil {
			return err
		}
	}
	fmt.Println("\n    The first is the service's own address, which stays; the others are its tasks'.\n    300 connections to the first, and which task answered how many:")
	res, err := t.inClient(ctx, "load", "http://web:8080/", "300", "4", "oneshot")
	if err != nil {
		return err
	}
	if err := spread(res.Stdout, 3, 300); err != nil {
		return err
	}
	_, err = t.minictl(ctx, "network", "inspect", "--verbose", "--pretty", "front")
	return err
}

// inClient runs the sample in the task of service client.
func (t *tour) inClient(ctx context.Context, args ...string) (cluster.Result, error) {
	return t.minictl(ctx, append([]string{"exec", "client", "--", "sample"}, args...)...)
}

// resolves waits until a name means so many addresses in the client: all that
// run are known there some milliseconds after they do.
func (t *tour) resolves(ctx context.Context, name string, want int) error {
	return cluster.Await(ctx, 20*time.Second, func() error {
		res, err := t.ctl.Ctl(ctx, "exec", "client", "--", "sample", "resolve", name)
		if got := len(strings.Fields(res.Stdout)); err == nil && got != want {
			err = fmt.Errorf("%s means %d addresses and not %d", name, got, want)
		}
		return err
	})
}

// spread checks what "sample load" prints: so many tasks answered all requests,
// each of them at least half of its share.
func spread(text string, tasks, requests int) error {
	by := map[string]int{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 2 {
			by[fields[0]], _ = strconv.Atoi(fields[1])
		}
	}
	delete(by, fmt.Sprintf("answered=%d", requests))
	if len(by) != tasks {
		return fmt.Errorf("%d of %d tasks answered", len(by), tasks)
	}
	if least := slices.Min(slices.Collect(maps.Values(by))); least < requests/tasks/2 {
		return fmt.Errorf("a task answered only %d of %d requests", least, requests)
	}
	return nil
}

// visit asks at every node until all replicas have answered there.
func (t *tour) visit(ctx context.Context) error {
	at, err := t.whereabouts(ctx)
	if err != nil {
		return err
	}
	first := t.c.Nodes()[0]
	body, err := t.get(ctx, pageAt(first))
	if err != nil {
		return err
	}
	fmt.Printf("\noutside$ curl %s\n%s\n", pageAt(first), indent(body))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "    CALLED\tTASKS THERE\tANSWERED BY\tWHICH SAW THE CLIENT AS")
	for _, n := range t.c.Nodes() {
		tasks, clients, err := t.askAll(ctx, n, at)
		if err != nil {
			return err
		}
		local := len(slices.DeleteFunc(slices.Collect(maps.Values(at)), func(name string) bool { return !strings.HasSuffix(name, "@"+n.Name) }))
		fmt.Fprintf(w, "    %s\t%d\t%s\t%s\n", n.Name, local, strings.Join(tasks, " "), strings.Join(clients, " "))
		if !slices.Equal(clients, []string{t.c.HubAddr()}) {
			return fmt.Errorf("the client %s was seen as %v", t.c.HubAddr(), clients)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Println("\n    What the nodes themselves find, of their ways to each other, names and ports:")
	res, err := t.ctl.Ctl(ctx, "network", "check")
	if err != nil {
		return err
	}
	fmt.Printf("\n%s$ minictl network check | tail -n 3\n", t.ctl.Name)
	lines := strings.Split(strings.TrimSpace(res.Stdout), "\n")
	fmt.Print(indent(strings.Join(lines[max(0, len(lines)-3):], "\n")))
	return nil
}

// whereabouts names the tasks of web, as web.1@n1, by their host names.
func (t *tour) whereabouts(ctx context.Context) (map[string]string, error) {
	tasks, err := t.ctl.Tasks(ctx, "web")
	if err != nil {
		return nil, err
	}
	at := map[string]string{}
	for _, task := range tasks {
		n, err := t.nodeOf(ctx, task.NodeId)
		if err != nil {
			return nil, err
		}
		at[task.Id[:12]] = fmt.Sprintf("web.%d@%s", task.Slot, n.Name)
	}
	return at, nil
}

// askAll asks at a node until every task has answered, and returns their names
// and the addresses of clients that they saw.
func (t *tour) askAll(ctx context.Context, n *cluster.Node, at map[string]string) (tasks, clients []string, err error) {
	answered, seen := map[string]bool{}, map[string]bool{}
	err = cluster.Await(ctx, 20*time.Second, func() error {
		for range 4 * len(at) {
			body, err := t.get(ctx, pageAt(n))
			if err != nil {
				return err
			}
			answered[at[field(body, "hostname")]] = true
			host, _, err := net.SplitHostPort(field(body, "from"))
			if err != nil {
				return err
			}
			seen[host] = true
		}
		if len(answered) < len(at) {
			return fmt.Errorf("only %v answered at %s", slices.Sorted(maps.Keys(answered)), n.Name)
		}
		return nil
	})
	return slices.Sorted(maps.Keys(answered)), slices.Sorted(maps.Keys(seen)), err
}

// field reads a line of the sample's answer.
func field(body, name string) string {
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return value
		}
	}
	return ""
}

// answersEverywhere waits until every node answers, also those that came back.
func (t *tour) answersEverywhere(ctx context.Context) error {
	return cluster.Await(ctx, 30*time.Second, func() error {
		var errs []error
		for _, n := range t.c.Nodes() {
			_, err := t.get(ctx, pageAt(n))
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}
