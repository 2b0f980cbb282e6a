package ca

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

const (
	// Certificates are renewed at a random point of this part of their life,
	// so that a cluster started at once does not renew at once.
	renewFrom, renewTo = 0.5, 0.8
	// renewTime bounds one attempt.
	renewTime = 15 * time.Second
	// Failed attempts are repeated after a second at first, never later than
	// after five minutes.
	retryMin, retryMax = time.Second, 5 * time.Minute
	// wakeEvery bounds each sleep: timers do not see the wall clock jump.
	wakeEvery = time.Hour
)

// RenewerConfig is what a Renewer needs.
type RenewerConfig struct {
	Keystore *Keystore
	// Request sends a PEM certificate request to CA.Renew at any manager.
	Request func(ctx context.Context, csr []byte) (*pb.Certificate, error)
	// OnRenew is told of every new certificate; the role may have changed.
	// It may be nil.
	OnRenew func(before, after rpc.Identity)
	Log     *slog.Logger
}

// Renewer keeps a node's certificate fresh and its role as wanted.
type Renewer struct {
	cfg  RenewerConfig
	wake chan struct{}
}

// NewRenewer returns a renewer for a node that is in a cluster.
func NewRenewer(cfg RenewerConfig) *Renewer {
	return &Renewer{cfg: cfg, wake: make(chan struct{}, 1)}
}

// Renew asks for a new certificate soon, for when the wanted role differs from
// the present one. It does not wait.
func (r *Renewer) Renew() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run renews until ctx ends. It returns an error when there is nothing left to
// renew: the certificate has expired, which the error explains, or is gone.
func (r *Renewer) Run(ctx context.Context) error {
	failures := 0
	due := r.nextRenewal()
	for {
		if err := r.cfg.Keystore.Check(time.Now()); err != nil {
			return err
		}
		if woken := r.sleep(ctx, due); ctx.Err() != nil {
			return nil
		} else if !woken && time.Now().Before(due) {
			continue
		}
		if err := r.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			due = time.Now().Add(retryAfter(failures, rand.Float64()))
			failures++
			r.log("cannot renew certificate", "err", err, "again_at", due, "expires_at", r.cfg.Keystore.ExpiresAt())
			r.rest(ctx)
			continue
		}
		failures = 0
		due = r.nextRenewal()
	}
}

// sleep waits until due, an hour at most; true when Renew was called.
func (r *Renewer) sleep(ctx context.Context, due time.Time) bool {
	select {
	case <-ctx.Done():
	case <-r.wake:
		return true
	case <-time.After(min(time.Until(due), wakeEvery)):
	}
	return false
}

// rest keeps repeated calls of Renew from hammering managers that refuse.
func (r *Renewer) rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryMin):
	}
}

func (r *Renewer) log(msg string, args ...any) {
	if r.cfg.Log != nil {
		r.cfg.Log.Warn(msg, args...)
	}
}

func (r *Renewer) nextRenewal() time.Time {
	p := r.cfg.Keystore.present.Load()
	if p == nil {
		return time.Time{}
	}
	return renewAt(p.cert.NotBefore.Add(backdate), p.cert.NotAfter, rand.Float64())
}

// renewAt picks the moment of renewal within a certificate's life; chance is
// from [0, 1).
func renewAt(issued, expires time.Time, chance float64) time.Time {
	life := expires.Sub(issued)
	return issued.Add(time.Duration(float64(life) * (renewFrom + chance*(renewTo-renewFrom))))
}

// retryAfter is the pause after a number of earlier failures: doubling, of
// which chance takes away up to half.
func retryAfter(failures int, chance float64) time.Duration {
	pause := retryMin << min(failures, 20)
	return time.Duration(float64(min(pause, retryMax)) * (1 - chance/2))
}

// renew fetches one certificate, for a new key.
func (r *Renewer) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	before, ok := r.cfg.Keystore.Identity()
	if !ok {
		return errNoIdentity()
	}
	key, csr, err := newRequest()
	if err != nil {
		return err
	}
	answer, err := r.cfg.Request(ctx, csr)
	if err != nil {
		return err
	}
	after, err := r.cfg.Keystore.replace(before, Material{Key: keyPEM(key), Cert: answer.Cert})
	if err != nil {
		return fmt.Errorf("take new certificate: %w", err)
	}
	if r.cfg.OnRenew != nil {
		r.cfg.OnRenew(before, after)
	}
	return nil
}

// replace stores a renewed certificate, which must be of the same node and
// root: a renewal changes neither.
func (k *Keystore) replace(before rpc.Identity, m Material) (rpc.Identity, error) {
	m.Root = k.RootPEM()
	pair, err := m.parse()
	if err != nil {
		return rpc.Identity{}, err
	}
	if pair.id.NodeID != before.NodeID || pair.id.ClusterID != before.ClusterID {
		return rpc.Identity{}, fault.New(fault.Invalid, "it is of node %s in cluster %s", pair.id.NodeID, pair.id.ClusterID)
	}
	return pair.id, k.Store(m)
}
