package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// load sends N requests over C connections at a time, new ones each time or kept
// alive, and prints how many were answered by whom. SIGTERM ends it before N.
// Failures end it with an error.
func load(a []string) error {
	url, n, workers := arg(a, 0, "http://127.0.0.1:8080"), number(a, 1, 1000), number(a, 2, 4)
	pause, err := time.ParseDuration(arg(a, 4, "0s"))
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: arg(a, 3, "keepalive") == "oneshot", MaxIdleConnsPerHost: workers,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	var mu sync.Mutex
	by, failures := map[string]int{}, map[string]int{}
	jobs := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range jobs {
				host, err := ask(client, url)
				mu.Lock()
				if err != nil {
					failures[cause(err)]++
				} else {
					by[host]++
				}
				mu.Unlock()
				time.Sleep(pause)
			}
		})
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	for sent := 0; sent < n && ctx.Err() == nil; sent++ {
		jobs <- struct{}{}
	}
	close(jobs)
	wg.Wait()
	answered, failed := 0, 0
	for _, host := range slices.Sorted(maps.Keys(by)) {
		fmt.Printf("%s %d\n", host, by[host])
		answered += by[host]
	}
	for _, why := range slices.Sorted(maps.Keys(failures)) {
		fmt.Printf("failed: %s %d\n", why, failures[why])
		failed += failures[why]
	}
	fmt.Printf("answered=%d failed=%d\n", answered, failed)
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, n)
	}
	return nil
}

// burn keeps a CPU busy until SIGTERM. A file's bytes are on disk before that.
func burn(a []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(a) > 0 {
		f, err := os.Create(a[0])
		if err != nil {
			return err
		}
		if _, err := io.CopyN(f, filler{}, int64(number(a, 1, 1<<20))); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	fmt.Println("burning")
	for ctx.Err() == nil {
	}
	return nil
}

// ask returns the host name of who answers.
func ask(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(body), "\n")
	host, ok := strings.CutPrefix(line, "hostname=")
	if resp.StatusCode != http.StatusOK || !ok {
		return "", fmt.Errorf("unexpected answer: %s", resp.Status)
	}
	return host, nil
}

// cause leaves out of an error what differs each time.
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// resolve prints the addresses of names, one per line.
func resolve(a []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, name := range a {
		addrs, err := net.DefaultResolver.LookupHost(ctx, name)
		if err != nil {
			return err
		}
		slices.Sort(addrs)
		fmt.Println(strings.Join(addrs, "\n"))
	}
	return nil
}

// query sends a datagram and prints the answer.
func query(a []string) error {
	conn, err := net.Dial("udp", arg(a, 0, "127.0.0.1:8080"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, string(buf[:n]))
	return err
}
