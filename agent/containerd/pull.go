package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// checkTimeout bounds asking the registry for an image that is here already.
	checkTimeout = 5 * time.Second
	// stallTimeout ends a download that gets no byte.
	stallTimeout = 60 * time.Second
	// pullTimeout ends any pull.
	pullTimeout = 30 * time.Minute
)

// Auth is docker's JSON auth entry, as --with-registry-auth sends it.
type Auth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
	ServerAddress string `json:"serveraddress"`
}

// flight is one pull in which many may be interested; it ends with the last of
// them.
type flight struct {
	done   chan struct{}
	cancel context.CancelCauseFunc
	users  int
	last   atomic.Pointer[string]
	image  *image
	err    error
}

// quiet keeps containerd's client from writing its own log to stderr: what it
// says is in the errors it returns.
func quiet(ctx context.Context) context.Context {
	nobody := logrus.New()
	nobody.SetOutput(io.Discard)
	return log.WithLogger(ctx, logrus.NewEntry(nobody))
}

// ensure makes an image ready to run: what a tag names is asked from the
// registry, and what is here is used when the registry does not answer. Equal
// requests at the same time share one pull.
func (im *Images) ensure(ctx context.Context, spec *pb.ContainerSpec, progress func(string)) (*image, error) {
	name, err := normal(spec.GetImage())
	if err != nil {
		return nil, err
	}
	if err := checkPlatforms(name, spec.GetPlatforms()); err != nil {
		return nil, err
	}
	if img := im.fresh(name); img != nil {
		return img, nil
	}
	var auth Auth
	if raw := spec.GetPullAuth(); len(raw) > 0 {
		if err := json.Unmarshal(raw, &auth); err != nil {
			return nil, fault.New(fault.Invalid, "image %s: the registry credentials are not readable", name)
		}
	}
	key := fmt.Sprintf("%s %x", name, sha256.Sum256(spec.GetPullAuth()))
	f := im.board(ctx, key, func(ctx context.Context, report func(string)) (*image, error) {
		return im.get(ctx, name, auth, report)
	})
	return im.await(ctx, key, f, progress)
}

// board joins the pull under way for key, or starts it.
func (im *Images) board(ctx context.Context, key string, pull func(context.Context, func(string)) (*image, error)) *flight {
	im.mu.Lock()
	defer im.mu.Unlock()
	f := im.flights[key]
	if f == nil {
		ctx, cancel := context.WithCancelCause(quiet(withNamespace(context.WithoutCancel(ctx))))
		f = &flight{done: make(chan struct{}), cancel: cancel}
		im.flights[key] = f
		go func() {
			defer cancel(nil)
			f.image, f.err = pull(ctx, func(s string) { f.last.Store(&s) })
			im.mu.Lock()
			if im.flights[key] == f {
				delete(im.flights, key)
			}
			im.mu.Unlock()
			close(f.done)
		}()
	}
	f.users++
	return f
}

// await waits for a pull and passes its progress on.
func (im *Images) await(ctx context.Context, key string, f *flight, progress func(string)) (*image, error) {
	defer func() {
		im.mu.Lock()
		defer im.mu.Unlock()
		if f.users--; f.users == 0 {
			f.cancel(errors.New("nobody waits for the image any more"))
			if im.flights[key] == f {
				delete(im.flights, key)
			}
		}
	}()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; {
		select {
		case <-f.done:
			return f.image, f.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
		if s := f.last.Load(); s != nil && *s != last {
			last = *s
			progress(last)
		}
	}
}

// get finds the image here or at its registry.
func (im *Images) get(ctx context.Context, name string, auth Auth, report func(string)) (*image, error) {
	local, err := im.local(ctx, name)
	if err != nil {
		return nil, err
	}
	if local != nil && pinned(name) {
		return im.ready(ctx, name, *local)
	}
	pulled, err := im.pull(ctx, name, auth, local, report)
	switch {
	case err == nil:
		return im.ready(ctx, name, pulled)
	case local != nil && ctx.Err() == nil:
		// As Swarm does: a registry that is away does not stop what can run.
		return im.ready(ctx, name, *local)
	default:
		return nil, err
	}
}

func (im *Images) ready(ctx context.Context, name string, i images.Image) (*image, error) {
	img, err := im.inspect(ctx, i)
	if err != nil {
		return nil, err
	}
	if err := im.unpack(ctx, i); err != nil {
		return nil, err
	}
	im.keep(name, img)
	return img, nil
}

// local finds a complete image in containerd, nil if there is none.
func (im *Images) local(ctx context.Context, name string) (*images.Image, error) {
	i, err := im.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) && pinned(name) {
		i, err = im.byDigest(ctx, name)
	}
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for image %s: %w", name, inWords(err))
	}
	ok, _, _, missing, err := images.Check(ctx, im.client.ContentStore(), i.Target, im.platform)
	if err != nil || !ok || len(missing) > 0 {
		return nil, nil // for another platform, or half gone: the registry decides
	}
	return &i, nil
}

// byDigest finds an image that was loaded or pulled under another name.
func (im *Images) byDigest(ctx context.Context, name string) (images.Image, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return images.Image{}, errdefs.ErrNotFound
	}
	digest := ref.(reference.Digested).Digest().String()
	list, err := im.client.ImageService().List(ctx, fmt.Sprintf("target.digest==%s", digest))
	if err != nil || len(list) == 0 {
		return images.Image{}, errors.Join(err, errdefs.ErrNotFound)
	}
	return list[0], nil
}

func pinned(name string) bool {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return false
	}
	_, ok := ref.(reference.Digested)
	return ok
}

func checkPlatforms(name string, list []*pb.ImagePlatform) error {
	if len(list) == 0 {
		return nil
	}
	own := platformSpec()
	var have []ocispec.Platform
	for _, p := range list {
		if p.Os == own.OS && p.Architecture == own.Architecture {
			return nil
		}
		have = append(have, ocispec.Platform{OS: p.Os, Architecture: p.Architecture})
	}
	return otherPlatform(name, formatPlatforms(have))
}

// pull fetches and unpacks an image. With a local copy the registry has to
// answer soon, and an unchanged tag ends it there.
func (im *Images) pull(ctx context.Context, name string, auth Auth, local *images.Image, report func(string)) (images.Image, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pullTimeout, fault.New(fault.Unavailable, "pull image %s: not done within %v", name, pullTimeout))
	defer cancel()
	ctx, watch := watchDownload(ctx, name)
	defer watch.stop()
	resolver := im.resolver(ctx, name, auth, watch)
	report("asking the registry for " + name)
	resolveCtx := ctx
	if local != nil {
		c, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		resolveCtx = c
	}
	_, desc, err := resolver.Resolve(resolveCtx, name)
	if err != nil {
		return images.Image{}, pullError(ctx, name, auth, err)
	}
	if local != nil && local.Target.Digest == desc.Digest {
		return *local, nil
	}
	var seen sizes
	stopReport := watch.report(ctx, &seen, report)
	defer stopReport()
	img, err := im.client.Pull(ctx, name,
		client.WithResolver(resolver), client.WithPlatformMatcher(im.platform),
		client.WithPullUnpack, client.WithPullSnapshotter(im.snapshotter),
		client.WithImageHandler(images.HandlerFunc(seen.add)))
	if err != nil {
		if have := im.remotePlatforms(ctx, resolver, name, desc); errdefs.IsNotFound(err) && len(have) > 0 {
			return images.Image{}, otherPlatform(name, have)
		}
		return images.Image{}, pullError(ctx, name, auth, err)
	}
	return img.Metadata(), nil
}

// sizes sums the layers of the image being pulled.
type sizes struct {
	mu    sync.Mutex
	known map[string]int64
}

func (s *sizes) add(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if images.IsLayerType(d.MediaType) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.known == nil {
			s.known = make(map[string]int64)
		}
		s.known[d.Digest.String()] = d.Size
	}
	return nil, nil
}

func (s *sizes) total() (sum int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.known {
		sum += n
	}
	return sum
}

func progressText(got, total int64) string {
	switch {
	case total == 0:
		return "pulling image"
	case got >= total:
		return "unpacking image"
	}
	return fmt.Sprintf("pulling image: %s of %s", units.HumanSize(float64(got)), units.HumanSize(float64(total)))
}
