// Command sample is what the demo and the integration tests run in containers.
// Without arguments it serves HTTP on port 8080 and answers with its host name,
// version and what it knows of its task, and as many bytes more as ?size= asks
// for. Arguments choose what else it does:
//
//	serve [ADDR]       the default
//	sleep              wait for SIGTERM
//	stubborn           ignore SIGTERM
//	lines N [DELAY]    print N numbered lines, then end
//	echo               copy stdin to stdout
//	exit N             end with code N
//	eat BYTES          use that much memory, then wait
//	job FILE [DELAY [CODE]]
//	                   add lines to a file at the beginning and the end
//	burn [FILE BYTES]  keep a CPU busy until SIGTERM, with that much written to a file
//	env                print environment, ids, working directory, terminal
//	cat FILE           print a file
//	stat FILE          print mode, owner and size of a file
//	ls DIR             list a directory
//	write FILE TEXT    write a file
//	get URL            fetch a URL and print its body
//	udp ADDR           answer datagrams with the host name
//	query ADDR         send a datagram and print the answer
//	chat ADDR PORT     send datagrams from one port, print who answers when it changes
//	hold URL           send requests over one connection until SIGTERM
//	resolve NAME...    print the addresses of names
//	srv NAME           print targets and ports of a service record
//	ptr ADDR           print the names of an address
//	well FILE          end with code 1 when a file says "ill"
//	litter N           leave N processes behind and count the zombies of them
//	load URL N C [oneshot|keepalive] [PAUSE]
//	                   send N requests, C at a time, and count who answers
//
// Called as sh it runs the mode in its command line, words divided by spaces:
// enough for health checks.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// version is set when an image is built, so that updates can be seen.
var version = "v1"

func main() {
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == "sh" && len(args) == 2 {
		args = strings.Fields(args[1])
	}
	if len(args) == 0 {
		args = []string{"serve"}
	}
	run, ok := modes[args[0]]
	if !ok {
		fmt.Fprintf(os.Stderr, "sample: unknown mode %q\n", args[0])
		os.Exit(2)
	}
	if err := run(args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "sample: %v\n", err)
		os.Exit(1)
	}
}

var modes = map[string]func([]string) error{
	"serve": serve,
	"sleep": func([]string) error { return wait() },
	"stubborn": func([]string) error {
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ignoring SIGTERM")
		time.Sleep(24 * time.Hour)
		return nil
	},
	"lines": lines,
	"echo":  func([]string) error { _, err := io.Copy(os.Stdout, os.Stdin); return err },
	"exit":  func(a []string) error { os.Exit(number(a, 0, 0)); return nil },
	"eat":   eat,
	"burn":  burn,
	"job":   job,
	"env":   func([]string) error { return env() },
	"cat":   cat,
	"stat":  stat,
	"ls":    list,
	"write": func(a []string) error { return os.WriteFile(arg(a, 0, ""), []byte(arg(a, 1, "")), 0o644) },
	"get":   get,
	"well":  well,
	"udp":   udp,

	"query":   query,
	"chat":    chat,
	"hold":    hold,
	"resolve": resolve,
	"srv":     srv,
	"ptr":     ptr,
	"load":    load,
	"litter":  litter,
	"leave":   leave,
}

func arg(a []string, i int, otherwise string) string {
	if i < len(a) {
		return a[i]
	}
	return otherwise
}

func number(a []string, i, otherwise int) int {
	n, err := strconv.Atoi(arg(a, i, strconv.Itoa(otherwise)))
	if err != nil {
		return otherwise
	}
	return n
}

func wait() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	fmt.Println("waiting")
	<-ctx.Done()
	return nil
}

// lastAnswers is how long a server that has to end goes on answering clients
// that keep their connections: it asks them to close with each answer.
const lastAnswers = time.Second

// serve answers requests until SIGTERM, then finishes those under way.
func serve(a []string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	quiet := os.Getenv("QUIET") != "" // under load
	var ending atomic.Bool
	var open atomic.Int64
	server := &http.Server{Addr: arg(a, 0, ":8080"), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ending.Load() {
			w.Header().Set("Connection", "close")
		}
		if !quiet {
			fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
		}
		fmt.Fprintf(w, "hostname=%s\nversion=%s\nfrom=%s\n", host, version, r.RemoteAddr)
		for _, kv := range taskEnv() {
			fmt.Fprintln(w, kv)
		}
		if size, err := strconv.Atoi(r.FormValue("size")); err == nil {
			_, _ = io.CopyN(w, filler{}, int64(min(size, 100<<20)))
		}
	}), ConnState: func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		}
	}}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	fmt.Printf("serving %s on %s\n", version, server.Addr)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending.Store(true)
	for until := time.Now().Add(lastAnswers); open.Load() > 0 && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

// filler is as many dots as someone reads.
type filler struct{}

func (filler) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '.'
	}
	return len(p), nil
}

// taskEnv is the environment without what every container has.
func taskEnv() []string {
	list := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "PATH" || name == "HOME" || name == "HOSTNAME"
	})
	slices.Sort(list)
	return list
}

func lines(a []string) error {
	delay, err := time.ParseDuration(arg(a, 1, "0s"))
	if err != nil {
		return err
	}
	for i := range number(a, 0, 1) {
		fmt.Printf("line %d\n", i)
		time.Sleep(delay)
	}
	return nil
}

func eat(a []string) error {
	held := make([][]byte, 0, 1024)
	for left := number(a, 0, 1<<20); left > 0; left -= 1 << 20 {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1 // touch every page
		}
		held = append(held, block)
	}
	fmt.Printf("using %d MiB\n", len(held))
	return wait()
}

func env() error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	info, err := os.Stdout.Stat()
	if err != nil {
		return err
	}
	fmt.Printf("uid=%d gid=%d groups=%v\ndir=%s\nhostname=%s\nterminal=%t\n",
		os.Getuid(), os.Getgid(), groups, dir, host, info.Mode()&os.ModeCharDevice != 0)
	for _, kv := range os.Environ() {
		fmt.Println(kv)
	}
	return nil
}

func cat(a []string) error {
	f, err := os.Open(arg(a, 0, "/etc/hostname"))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(os.Stdout, f)
	return err
}

func well(a []string) error {
	text, err := os.ReadFile(arg(a, 0, "/tmp/state"))
	if err == nil && strings.HasPrefix(string(text), "ill") {
		return fmt.Errorf("feeling ill")
	}
	return nil
}

func stat(a []string) error {
	info, err := os.Stat(arg(a, 0, "/"))
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	fmt.Printf("%04o %d:%d %d\n", info.Mode().Perm(), owner.Uid, owner.Gid, info.Size())
	return nil
}

func list(a []string) error {
	entries, err := os.ReadDir(arg(a, 0, "/"))
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	return err
}

func get(a []string) error {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get(arg(a, 0, "http://127.0.0.1:8080"))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

func udp(a []string) error {
	conn, err := net.ListenPacket("udp", arg(a, 0, ":8080"))
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo([]byte(host), from); err != nil {
			return err
		}
	}
}
