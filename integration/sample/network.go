package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pace is how often chat and hold send.
const pace = 50 * time.Millisecond

// chat sends datagrams from one and the same port, whatever becomes of them, and
// prints who answers each time that is another than before.
func chat(a []string) error {
	to, err := net.ResolveUDPAddr("udp4", arg(a, 0, "127.0.0.1:8080"))
	if err != nil {
		return err
	}
	conn, err := net.DialUDP("udp4", &net.UDPAddr{Port: number(a, 1, 0)}, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	last, buf := "", make([]byte, 1500)
	for ctx.Err() == nil {
		// Refusals of the past are reported by whatever call comes next.
		_, _ = conn.Write([]byte("?"))
		_ = conn.SetReadDeadline(time.Now().Add(pace))
		n, err := conn.Read(buf)
		if who := string(buf[:n]); err == nil && who != last {
			fmt.Println(who)
			last = who
		}
		time.Sleep(pace)
	}
	return nil
}

// hold sends requests over one connection until SIGTERM, and fails as soon as
// the connection does.
func hold(a []string) error {
	req, err := http.NewRequest(http.MethodGet, arg(a, 0, "http://127.0.0.1:8080/"), nil)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", req.URL.Host, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	r := bufio.NewReader(conn)
	answers := 0
	for ; ctx.Err() == nil; answers++ {
		if err := converse(conn, r, req); err != nil {
			return fmt.Errorf("after %d answers: %w", answers, err)
		}
		if answers == 0 {
			fmt.Println("holding")
		}
		time.Sleep(pace)
	}
	fmt.Printf("held=%d\n", answers)
	return nil
}

func converse(conn net.Conn, r *bufio.Reader, req *http.Request) error {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func srv(a []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, records, err := net.DefaultResolver.LookupSRV(ctx, "", "", arg(a, 0, ""))
	if err != nil {
		return err
	}
	for _, r := range records {
		fmt.Println(net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))))
	}
	return nil
}

func ptr(a []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	names, err := net.DefaultResolver.LookupAddr(ctx, arg(a, 0, ""))
	if err != nil {
		return err
	}
	slices.Sort(names)
	fmt.Println(strings.Join(names, "\n"))
	return nil
}
