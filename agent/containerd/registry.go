package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minid/minid/fault"
)

// resolver reaches an image's registry as the node's hosts.toml files say;
// registries on the host itself speak plain HTTP unless a file says otherwise.
func (im *Images) resolver(ctx context.Context, name string, auth Auth, watch *downloadWatch) remotes.Resolver {
	registry := domainOf(name)
	opts := dockerconfig.HostOptions{
		HostDir: func(host string) (string, error) { return hostDir(im.registryDir, host) },
		Credentials: func(host string) (string, string, error) {
			// A mirror does not get the registry's password.
			if auth == (Auth{}) || !sameRegistry(host, registry) {
				return "", "", nil
			}
			if auth.IdentityToken != "" {
				return "", auth.IdentityToken, nil
			}
			return auth.Username, auth.Password, nil
		},
		UpdateClient: func(c *http.Client) error {
			c.Transport = &countingTransport{next: c.Transport, watch: watch}
			return nil
		},
	}
	if local, err := docker.MatchLocalhost(registry); err == nil && local {
		opts.DefaultScheme = "http"
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: dockerconfig.ConfigureHosts(ctx, opts)})
}

// hostDir finds a registry's directory; one that is not configured has none.
func hostDir(root, host string) (string, error) {
	if root == "" {
		return "", errdefs.ErrNotFound
	}
	for _, name := range []string{host, strings.ReplaceAll(host, ":", "_"), "_default"} {
		dir := filepath.Join(root, name)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, nil
		}
	}
	return "", errdefs.ErrNotFound
}

func domainOf(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	return reference.Domain(ref)
}

func sameRegistry(host, registry string) bool {
	return host == registry || registry == "docker.io" && host == "registry-1.docker.io"
}

// downloadWatch counts what comes from registries and ends a download that
// stands still.
type downloadWatch struct {
	bytes    atomic.Int64
	open     atomic.Int64
	progress atomic.Int64 // unix nanoseconds of the last sign of life
	stop     context.CancelFunc
}

// watchDownload returns a context that ends, with the reason, when requests are
// open and no byte came for stallTimeout.
func watchDownload(ctx context.Context, name string) (context.Context, *downloadWatch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &downloadWatch{stop: func() { cancel(nil) }}
	w.alive()
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			quiet := time.Since(time.Unix(0, w.progress.Load()))
			if w.open.Load() > 0 && quiet > stallTimeout {
				cancel(fault.New(fault.Unavailable, "pull image %s: no byte from the registry for %v", name, stallTimeout))
				return
			}
		}
	}()
	return ctx, w
}

func (w *downloadWatch) alive() { w.progress.Store(time.Now().UnixNano()) }

// report tells the progress twice a second until the returned function is called.
func (w *downloadWatch) report(ctx context.Context, seen *sizes, report func(string)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	before := w.bytes.Load()
	go func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			report(progressText(w.bytes.Load()-before, seen.total()))
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return cancel
}

type countingTransport struct {
	next  http.RoundTripper
	watch *downloadWatch
}

func (t *countingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	next := t.next
	if next == nil {
		next = http.DefaultTransport
	}
	if t.watch.open.Add(1) == 1 {
		t.watch.alive()
	}
	resp, err := next.RoundTrip(req)
	if err != nil {
		t.watch.open.Add(-1)
		return nil, err
	}
	t.watch.alive()
	resp.Body = &countingBody{ReadCloser: resp.Body, watch: t.watch}
	return resp, nil
}

type countingBody struct {
	io.ReadCloser
	watch  *downloadWatch
	closed atomic.Bool
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.bytes.Add(int64(n))
		b.watch.alive()
	}
	return n, err
}

func (b *countingBody) Close() error {
	if b.closed.CompareAndSwap(false, true) {
		b.watch.open.Add(-1)
	}
	return b.ReadCloser.Close()
}

// remotePlatforms names the platforms that an image has at its registry.
func (im *Images) remotePlatforms(ctx context.Context, r remotes.Resolver, name string, desc ocispec.Descriptor) []string {
	fetcher, err := r.Fetcher(ctx, name)
	if err != nil {
		return nil
	}
	switch {
	case images.IsIndexType(desc.MediaType):
		var index ocispec.Index
		if fetchJSON(ctx, fetcher, desc, &index) != nil {
			return nil
		}
		var list []ocispec.Platform
		for _, m := range index.Manifests {
			if m.Platform != nil {
				list = append(list, *m.Platform)
			}
		}
		return formatPlatforms(list)
	case images.IsManifestType(desc.MediaType):
		var manifest ocispec.Manifest
		var config ocispec.Image
		if fetchJSON(ctx, fetcher, desc, &manifest) != nil || fetchJSON(ctx, fetcher, manifest.Config, &config) != nil {
			return nil
		}
		return formatPlatforms([]ocispec.Platform{config.Platform})
	}
	return nil
}

func fetchJSON(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, into any) error {
	body, err := f.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(io.LimitReader(body, 4<<20)).Decode(into)
}

func platformSpec() ocispec.Platform { return platforms.DefaultSpec() }

// pullError says in words why an image could not be pulled, and whether trying
// again could help.
func pullError(ctx context.Context, name string, auth Auth, err error) error {
	registry := domainOf(name)
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return cause
	}
	var refused remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &refused) {
		switch refused.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return unauthorized(name, registry, auth, err)
		case http.StatusNotFound:
			return unknownImage(name, registry, err)
		case http.StatusTooManyRequests:
			return fault.New(fault.Unavailable, "pull image %s: %s limits how often it may be asked: %w", name, registry, err)
		}
		return fault.New(fault.Unavailable, "pull image %s: %s answered %s: %w", name, registry, refused.Status, err)
	}
	var network net.Error
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization), strings.Contains(err.Error(), "authorization failed"),
		strings.Contains(err.Error(), "insufficient_scope"):
		return unauthorized(name, registry, auth, err)
	case errdefs.IsNotFound(err):
		return unknownImage(name, registry, err)
	case errors.As(err, &network):
		return fault.New(fault.Unavailable, "pull image %s: registry %s is not reachable: %w", name, registry, err)
	}
	return fault.New(fault.Unavailable, "pull image %s: %w", name, err)
}

func unauthorized(name, registry string, auth Auth, err error) error {
	why := "and no credentials were given"
	if auth != (Auth{}) {
		why = "and it refuses the credentials given"
	}
	return fault.New(fault.Invalid, "pull image %s: %s wants authorisation %s: %w", name, registry, why, err).
		WithTry("docker login %s, then use --with-registry-auth", registry)
}

func unknownImage(name, registry string, err error) error {
	return fault.New(fault.Invalid, "pull image %s: %s has no such image or tag: %w", name, registry, err)
}

// inWords gives containerd's own failures their class.
func inWords(err error) error {
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.Unavailable, errdefs.IsUnavailable(err):
		return fault.New(fault.Unavailable, "containerd does not answer: %w", err)
	case errors.Is(err, context.DeadlineExceeded), errdefs.IsDeadlineExceeded(err):
		return fault.New(fault.Timeout, "containerd took too long: %w", err)
	}
	return fmt.Errorf("containerd: %w", err)
}
