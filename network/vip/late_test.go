package vip

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/gate"
	"github.com/minid/minid/network/netns"
)

// TestLateCaller: for three seconds the caller's node does not hear that a
// backend has left, which in that time stops listening and loses its network. No
// connection fails. Then the other one goes, and what is on its way is refused.
func TestLateCaller(t *testing.T) {
	r, b := newClient(t, 12)
	r.hosts[11] = newNetns(t)
	r.cable(r.sw, "br0", r.hosts[11], 11) // nobody listens there any more
	must(t, b.Set(both(11, 12)))
	must(t, gate.Shut(r.hosts[11]))
	began := time.Now()
	var callers sync.WaitGroup
	var delayed atomic.Int64
	stop := make(chan struct{})
	for i := range 20 {
		host := v4
		if i%2 > 0 {
			host = v6
		}
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				asked := time.Now()
				err := netns.Do(r.hosts[client], func() error {
					l, err := dial(host(virtual))
					if err == nil {
						err = errors.Join(l.echo(), l.Close())
					}
					return err
				})
				if err != nil {
					t.Errorf("%v after the backend left: %v", asked.Sub(began), err)
				}
				if time.Since(asked) > 500*time.Millisecond {
					delayed.Add(1)
				}
			}
		})
	}
	time.Sleep(time.Until(began.Add(time.Second)))
	r.unplug(11)
	time.Sleep(time.Until(began.Add(3 * time.Second)))
	must(t, b.Change(both(12), nil))
	time.Sleep(200 * time.Millisecond)
	close(stop)
	callers.Wait()
	if delayed.Load() == 0 {
		t.Error("nobody was led to the backend that had left: the test shows nothing")
	}

	must(t, gate.Shut(r.hosts[12]))
	refused := make(chan error)
	go func() {
		refused <- netns.Do(r.hosts[client], func() error { _, err := dial(v4(virtual)); return err })
	}()
	time.Sleep(200 * time.Millisecond)
	must(t, b.Change(both(), nil))
	if err := <-refused; !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("to a service without backends: %v", err)
	}
}
