package simnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minid/minid/internal/simnet"
)

func pair(t *testing.T, n *simnet.Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("b:1")
	if err != nil {
		t.Fatal(err)
	}
	client, err = n.Dial(t.Context(), "a", "b:1")
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestBytesArriveAfterTheLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New()
		n.Latency = 3 * time.Millisecond
		client, server := pair(t, n)
		start := time.Now()
		client.Write([]byte("hello"))
		buf := make([]byte, 8)
		k, err := server.Read(buf)
		if err != nil || string(buf[:k]) != "hello" || time.Since(start) != n.Latency {
			t.Errorf("read %q, %v after %v", buf[:k], err, time.Since(start))
		}
	})
}

func TestCutLinkHoldsBytesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New()
		client, server := pair(t, n)
		n.Cut("a", "b")
		client.Write([]byte("late"))
		server.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 8)
		if _, err := server.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read over a cut link: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Dial(ctx, "a", "b:1"); err == nil {
			t.Fatal("dialled over a cut link")
		}
		n.Heal("a", "b")
		server.SetReadDeadline(time.Time{})
		if k, err := server.Read(buf); err != nil || string(buf[:k]) != "late" {
			t.Errorf("after healing: %q, %v", buf[:k], err)
		}
	})
}

func TestDeathBreaksConnectionsAndListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New()
		client, _ := pair(t, n)
		go n.Die("b")
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: %v", err)
		}
		if _, err := n.Dial(t.Context(), "a", "b:1"); err == nil {
			t.Error("dialled a dead host")
		}
	})
}
