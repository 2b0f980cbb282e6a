package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	chain "github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Images are the images of a node.
type Images struct {
	client      *client.Client
	registryDir string
	platform    platforms.MatchComparer
	snapshotter string

	mu      sync.Mutex
	flights map[string]*flight
	memo    map[string]memo
	infos   map[string]*image
}

// image is what is needed of an image to run it.
type image struct {
	Name     string
	Digest   string
	ChainID  string
	Config   ocispec.ImageConfig
	Health   *pb.HealthConfig
	Platform ocispec.Platform
}

// OpenImages connects to containerd. The caller closes it.
func OpenImages(ctx context.Context, address, registryDir string) (*Images, error) {
	c, err := client.New(address, client.WithDefaultNamespace(Namespace), client.WithTimeout(rpcTimeout))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connect to containerd at %s: %w", address, err).
			WithTry("minid check")
	}
	im := &Images{
		client: c, registryDir: registryDir, platform: platforms.Default(),
		flights: make(map[string]*flight), memo: make(map[string]memo), infos: make(map[string]*image),
	}
	if im.snapshotter, err = im.chooseSnapshotter(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return im, nil
}

// Close ends the connection.
func (im *Images) Close() error { return im.client.Close() }

// Version of the containerd in use.
func (im *Images) Version(ctx context.Context) (string, error) {
	v, err := im.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", inWords(err))
	}
	return v.Version, nil
}

// chooseSnapshotter takes overlayfs where it works, else native, which copies.
func (im *Images) chooseSnapshotter(ctx context.Context) (string, error) {
	for _, name := range []string{"overlayfs", "native"} {
		if _, err := im.client.GetSnapshotterCapabilities(ctx, name); err == nil {
			return name, nil
		} else if !errdefs.IsNotFound(err) && !strings.Contains(err.Error(), "not found") {
			return "", fmt.Errorf("look for snapshotter %s: %w", name, inWords(err))
		}
	}
	return "", fault.New(fault.State, "containerd has neither the overlayfs nor the native snapshotter").WithTry("minid check")
}

// normal gives a reference its registry, repository prefix and tag.
func normal(name string) (string, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fault.New(fault.Invalid, "image %q: %w", name, err)
	}
	return ref.String(), nil
}

// List returns the node's images by name.
func (im *Images) List(ctx context.Context) ([]*pb.Image, error) {
	list, err := im.client.ImageService().List(withNamespace(ctx))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", inWords(err))
	}
	out := make([]*pb.Image, 0, len(list))
	for _, i := range list {
		size, err := i.Size(withNamespace(ctx), im.client.ContentStore(), im.platform)
		if err != nil {
			size = i.Target.Size // parts are missing, or it is for another platform
		}
		out = append(out, describeImage(i, size))
	}
	slices.SortFunc(out, func(a, b *pb.Image) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func describeImage(i images.Image, size int64) *pb.Image {
	return &pb.Image{Name: i.Name, Digest: i.Target.Digest.String(), SizeBytes: size, CreatedAt: timestamppb.New(i.CreatedAt)}
}

// Load reads a docker or OCI archive and unpacks what is in it.
func (im *Images) Load(ctx context.Context, archive io.Reader) ([]*pb.Image, error) {
	ctx = withNamespace(ctx)
	list, err := im.client.Import(ctx, archive, client.WithImportPlatform(platforms.All), client.WithSkipMissing())
	if err != nil {
		return nil, fault.New(fault.Invalid, "load images: %w", err)
	}
	if len(list) == 0 {
		return nil, fault.New(fault.Invalid, "load images: the archive names no image").WithTry("save it with a tag")
	}
	out := make([]*pb.Image, 0, len(list))
	for _, i := range list {
		img, err := im.inspect(ctx, i)
		if err != nil {
			return nil, err
		}
		if err := im.unpack(ctx, i); err != nil {
			return nil, err
		}
		im.keep(i.Name, img)
		size, err := i.Size(ctx, im.client.ContentStore(), im.platform)
		if err != nil {
			size = i.Target.Size
		}
		out = append(out, describeImage(i, size))
	}
	return out, nil
}

// Remove deletes an image by name. One that containers use is kept unless
// force; its layers stay until the last of them is gone.
func (im *Images) Remove(ctx context.Context, name string, force bool) error {
	ctx = withNamespace(ctx)
	found, err := im.find(ctx, name)
	if err != nil {
		return err
	}
	if !force {
		users, err := im.client.ContainerService().List(ctx, fmt.Sprintf("image==%q", found.Name))
		if err != nil {
			return fmt.Errorf("look for users of the image: %w", inWords(err))
		}
		if len(users) > 0 {
			return fault.New(fault.InUse, "remove image %s: %d containers use it (%s)", name, len(users), users[0].ID).
				WithTry("minictl image rm --force %s", name)
		}
	}
	if err := im.client.ImageService().Delete(ctx, found.Name, images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image: %w", inWords(err))
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	delete(im.memo, found.Name)
	delete(im.infos, found.Name+"@"+found.Target.Digest.String())
	return nil
}

// find looks an image up by the name as it is, normalised, or by digest.
func (im *Images) find(ctx context.Context, name string) (images.Image, error) {
	service := im.client.ImageService()
	names := []string{name}
	if n, err := normal(name); err == nil {
		names = append(names, n)
	}
	for _, n := range names {
		i, err := service.Get(ctx, n)
		if err == nil {
			return i, nil
		}
		if !errdefs.IsNotFound(err) {
			return images.Image{}, fmt.Errorf("look for image: %w", inWords(err))
		}
	}
	return images.Image{}, fault.New(fault.NotFound, "no image %s on this node", name).WithTry("minictl image ls")
}

// inspect reads what is needed to run a local image. An image for another
// platform is refused.
func (im *Images) inspect(ctx context.Context, i images.Image) (*image, error) {
	key := i.Name + "@" + i.Target.Digest.String()
	im.mu.Lock()
	known := im.infos[key]
	im.mu.Unlock()
	if known != nil {
		return known, nil
	}
	store := im.client.ContentStore()
	manifest, err := images.Manifest(ctx, store, i.Target, im.platform)
	if err != nil {
		if errdefs.IsNotFound(err) {
			if have := im.localPlatforms(ctx, i); len(have) > 0 {
				return nil, otherPlatform(i.Name, have)
			}
		}
		return nil, fmt.Errorf("read image %s: %w", i.Name, inWords(err))
	}
	data, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", i.Name, inWords(err))
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fault.New(fault.Invalid, "image %s: its configuration is not readable: %w", i.Name, err)
	}
	if config.OS != "" && !im.platform.Match(config.Platform) {
		return nil, otherPlatform(i.Name, []string{platforms.Format(config.Platform)})
	}
	return &image{
		Name: i.Name, Digest: i.Target.Digest.String(), Config: config.Config, Platform: config.Platform,
		Health: imageHealth(data), ChainID: chain.ChainID(config.RootFS.DiffIDs).String(),
	}, nil
}

// localPlatforms names the platforms of an image that is here.
func (im *Images) localPlatforms(ctx context.Context, i images.Image) []string {
	list, err := images.Platforms(ctx, im.client.ContentStore(), i.Target)
	if err != nil {
		return nil
	}
	return formatPlatforms(list)
}

func formatPlatforms(list []ocispec.Platform) []string {
	var out []string
	for _, p := range list {
		if p.OS == "unknown" || p.OS == "" { // attestations
			continue
		}
		if s := p.OS + "/" + p.Architecture; !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func otherPlatform(name string, have []string) error {
	own := platforms.DefaultSpec()
	return fault.New(fault.Invalid, "image %s is for %s, this node is %s/%s", name, strings.Join(have, ", "), own.OS, own.Architecture).
		WithTry("use an image for this platform, or constrain the service to nodes of the image's")
}

// unpack makes sure that the image's layers are there as snapshots.
func (im *Images) unpack(ctx context.Context, i images.Image) error {
	img := client.NewImageWithPlatform(im.client, i, im.platform)
	ok, err := img.IsUnpacked(ctx, im.snapshotter)
	if err == nil && !ok {
		err = img.Unpack(ctx, im.snapshotter)
	}
	if err != nil {
		return fmt.Errorf("unpack image %s: %w", i.Name, inWords(err))
	}
	return nil
}

// memo remembers for a short while that an image was checked at its registry.
type memo struct {
	image *image
	at    time.Time
}

// memoFor is how long the registry's answer counts as fresh: a hundred tasks
// made at once ask once.
const memoFor = 10 * time.Second

func (im *Images) keep(ref string, img *image) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.infos[img.Name+"@"+img.Digest] = img
	im.memo[ref] = memo{image: img, at: time.Now()}
}

func (im *Images) fresh(ref string) *image {
	im.mu.Lock()
	defer im.mu.Unlock()
	m, ok := im.memo[ref]
	if !ok || time.Since(m.at) > memoFor {
		delete(im.memo, ref)
		return nil
	}
	return m.image
}
