package ca

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// renewal runs a Renewer for a worker in virtual time.
type renewal struct {
	*Renewer
	world  *world
	keys   *Keystore
	start  time.Time
	nodeID string
	// asked and got are when requests and certificates came.
	asked []time.Duration
	got   []time.Duration
	roles []pb.NodeRole
	mu    sync.Mutex // protects fail
	fail  error      // of every request
	ended chan error
	stop  context.CancelFunc
}

// life is that of the default certificate.
const life = 90 * 24 * time.Hour

func virtually(t *testing.T, life time.Duration, f func(t *testing.T, r *renewal)) {
	synctest.Test(t, func(t *testing.T) {
		r := &renewal{world: newWorld(t, time.Now()), keys: mustOpen(t, t.TempDir()), start: time.Now(), ended: make(chan error, 1)}
		joined, err := r.world.ca.Join(from(t, rpc.Identity{}), &pb.JoinRequest{Csr: request(t), Token: r.world.Cluster.JoinTokens.Worker})
		if err != nil {
			t.Fatal(err)
		}
		r.nodeID = joined.NodeId
		mustStore(t, r.keys, issue(t, r.world.Root, Subject{r.nodeID, r.world.Cluster.Id, workerRole}, life, time.Now()))
		r.Renewer = NewRenewer(RenewerConfig{Keystore: r.keys, Request: r.request, OnRenew: func(_, after rpc.Identity) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.got = append(r.got, time.Since(r.start))
			r.roles = append(r.roles, after.Role)
		}})
		ctx, cancel := context.WithCancel(t.Context())
		r.stop = cancel
		go func() { r.ended <- r.Run(ctx) }()
		f(t, r)
		cancel()
		if err := <-r.ended; err != nil && !fault.Is(err, fault.Denied) {
			t.Errorf("ended with %v", err)
		}
	})
}

func (r *renewal) request(ctx context.Context, csr []byte) (*pb.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, time.Since(r.start))
	if r.fail != nil {
		return nil, r.fail
	}
	return r.world.ca.Renew(rpc.WithIdentity(ctx, r.keys.Self()), &pb.RenewRequest{Csr: csr})
}

func (r *renewal) setFail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// counts returns the numbers of requests and certificates so far.
func (r *renewal) counts() (asked, got int) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked), len(r.got)
}

func TestRenewsInThePartOfLifeMeantForIt(t *testing.T) {
	virtually(t, life, func(t *testing.T, r *renewal) {
		time.Sleep(2 * 365 * 24 * time.Hour)
		synctest.Wait()
		last := time.Duration(0)
		for _, at := range r.got {
			if part := float64(at-last) / float64(life); part < 0.5 || part > 0.801 {
				t.Errorf("renewed at %.3f of its life", part)
			}
			last = at
		}
		if len(r.got) < 9 || len(r.got) > 17 {
			t.Errorf("%d renewals in two years", len(r.got))
		}
		if err := r.keys.Check(time.Now()); err != nil {
			t.Error(err)
		}
	})
}

func TestRenewsWhenTheRoleChanges(t *testing.T) {
	virtually(t, life, func(t *testing.T, r *renewal) {
		for _, role := range []pb.NodeRole{managerRole, workerRole} {
			r.world.want(t, r.nodeID, role)
			r.Renew()
			r.Renew() // twice is once
			time.Sleep(time.Second)
			synctest.Wait()
			if r.keys.Self().Role != role {
				t.Errorf("the node is %v, want %v", r.keys.Self().Role, role)
			}
		}
		if len(r.asked) > 4 {
			t.Errorf("asked %d times", len(r.asked))
		}
	})
}

func TestFailedRenewalsBackOff(t *testing.T) {
	virtually(t, life, func(t *testing.T, r *renewal) {
		r.setFail(errors.New("no manager in reach"))
		r.Renew()
		time.Sleep(time.Hour)
		asked, _ := r.counts()
		if asked < 12 || asked > 40 {
			t.Errorf("asked %d times in an hour", asked)
		}
		for range 100 { // somebody insists
			r.Renew()
			time.Sleep(100 * time.Millisecond)
		}
		if again, _ := r.counts(); again-asked > 12 {
			t.Errorf("asked %d times in 10 s", again-asked)
		}
		r.setFail(nil)
		time.Sleep(retryMax + time.Second)
		if _, got := r.counts(); got != 1 {
			t.Errorf("%d certificates after the managers came back", got)
		}
	})
}

func TestRenewerEndsWithItsCertificate(t *testing.T) {
	virtually(t, 24*time.Hour, func(t *testing.T, r *renewal) {
		r.setFail(errors.New("no manager in reach"))
		time.Sleep(26 * time.Hour)
		if err := <-r.ended; !fault.Is(err, fault.Denied) || fault.TryOf(err) == "" {
			t.Errorf("ended with %v", err)
		}
		r.ended <- nil
	})
}

func TestRenewerTakesNoForeignCertificate(t *testing.T) {
	virtually(t, life, func(t *testing.T, r *renewal) {
		before := r.keys.Self()
		r.cfg.Request = func(_ context.Context, csr []byte) (*pb.Certificate, error) {
			cert, err := r.world.Root.Issue(csr, Subject{"other", r.world.Cluster.Id, managerRole}, life, time.Now())
			return &pb.Certificate{Cert: cert}, err
		}
		r.Renew()
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.keys.Self() != before || len(r.got) > 0 {
			t.Errorf("became %+v", r.keys.Self())
		}
	})
}

func TestRenewalTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		span := time.Duration(rapid.Int64Range(int64(time.Hour), int64(20*365*24*time.Hour)).Draw(t, "life"))
		chance := rapid.Float64Range(0, 0.999999).Draw(t, "chance")
		at := renewAt(noon, noon.Add(span), chance).Sub(noon)
		if at < span/2 || float64(at) > 0.8*float64(span)+1 {
			t.Fatalf("renewal of a life of %v at %v", span, at)
		}
		pause := retryAfter(rapid.IntRange(0, 1_000_000).Draw(t, "failures"), chance)
		if pause < retryMin/2 || pause > retryMax {
			t.Fatalf("pause %v", pause)
		}
	})
}
