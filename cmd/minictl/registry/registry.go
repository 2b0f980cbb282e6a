// Package registry asks image registries what a service needs to know before
// its tasks start: which digest a tag has now, which platforms the image is
// for, and with which of the caller's credentials nodes may pull it.
package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// timeout bounds the whole conversation with a registry: nodes may reach
// registries that this host cannot, so that a silent one must not cost much.
const timeout = 3 * time.Second

// Normalize writes a reference in full: registry, repository and tag.
func Normalize(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fault.New(fault.Invalid, "invalid image %q: %w", image, err)
	}
	return reference.TagNameOnly(named).String(), nil
}

// Image is what a registry knows of an image.
type Image struct {
	// Reference with tag and digest.
	Reference string
	Platforms []*pb.ImagePlatform
}

// Resolve finds the digest and platforms of a normalised reference. Registries
// on this host and on private addresses may speak plain HTTP.
func Resolve(ctx context.Context, image string, login auth.Credential) (Image, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return Image{}, fmt.Errorf("parse image: %w", err)
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		return Image{}, fmt.Errorf("parse image: %w", err)
	}
	desc, err := remote.Get(ref, remote.WithContext(ctx), remote.WithAuth(authenticator(login)),
		remote.WithTransport(http.DefaultTransport), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	if err != nil {
		return Image{}, fmt.Errorf("ask registry: %w", err)
	}
	platforms, err := platformsOf(desc)
	if err != nil {
		return Image{}, fmt.Errorf("read platforms: %w", err)
	}
	if _, pinned := named.(reference.Digested); !pinned {
		image += "@" + desc.Digest.String()
	}
	return Image{Reference: image, Platforms: platforms}, nil
}

func platformsOf(desc *remote.Descriptor) ([]*pb.ImagePlatform, error) {
	if !desc.MediaType.IsIndex() {
		img, err := desc.Image()
		if err != nil {
			return nil, err
		}
		config, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		return appendPlatform(nil, config.Platform()), nil
	}
	index, err := desc.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var platforms []*pb.ImagePlatform
	for _, m := range manifest.Manifests {
		platforms = appendPlatform(platforms, m.Platform)
	}
	return platforms, nil
}

// appendPlatform leaves out what is no image, such as attestations.
func appendPlatform(platforms []*pb.ImagePlatform, p *v1.Platform) []*pb.ImagePlatform {
	if p == nil || p.OS == "" || p.OS == "unknown" {
		return platforms
	}
	for _, have := range platforms {
		if have.Os == p.OS && have.Architecture == p.Architecture {
			return platforms
		}
	}
	return append(platforms, &pb.ImagePlatform{Os: p.OS, Architecture: p.Architecture})
}

func authenticator(login auth.Credential) authn.Authenticator {
	if login == auth.EmptyCredential {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{Username: login.Username, Password: login.Password,
		IdentityToken: login.RefreshToken, RegistryToken: login.AccessToken})
}

// Login finds the caller's credentials for an image's registry in docker's
// configuration and its credential helpers; empty when there are none. Path is
// the configuration file.
func Login(ctx context.Context, path, image string) (auth.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("parse image: %w", err)
	}
	store, err := credentials.NewStore(path, credentials.StoreOptions{})
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("read %s: %w", path, err)
	}
	login, err := store.Get(ctx, credentials.ServerAddressFromRegistry(reference.Domain(named)))
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("find credentials for %s: %w", reference.Domain(named), err)
	}
	return login, nil
}

// PullAuth writes credentials as docker's JSON entry, nil when there are none.
func PullAuth(image string, login auth.Credential) ([]byte, error) {
	if login == auth.EmptyCredential {
		return nil, nil
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, fmt.Errorf("parse image: %w", err)
	}
	return json.Marshal(struct {
		Username      string `json:"username,omitempty"`
		Password      string `json:"password,omitempty"`
		IdentityToken string `json:"identitytoken,omitempty"`
		RegistryToken string `json:"registrytoken,omitempty"`
		ServerAddress string `json:"serveraddress,omitempty"`
	}{login.Username, login.Password, login.RefreshToken, login.AccessToken, reference.Domain(named)})
}
