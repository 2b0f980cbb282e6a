package registry

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	server "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/protobuf/testing/protocmp"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func image(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// serve starts a plain HTTP registry that asks for a password if one is given.
func serve(t *testing.T, password string) string {
	t.Helper()
	registry := server.New(server.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); password != "" && p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		registry.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestResolve(t *testing.T) {
	host := serve(t, "pw")
	login := auth.Credential{Username: "me", Password: "pw"}
	single, err := name.ParseReference(host + "/one:1")
	if err != nil {
		t.Fatal(err)
	}
	img := image(t, "arm64")
	if err := remote.Write(single, img, remote.WithAuth(authenticator(login))); err != nil {
		t.Fatal(err)
	}
	many, _ := name.ParseReference(host + "/many:2")
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: image(t, "amd64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: image(t, "arm"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}}},
		mutate.IndexAddendum{Add: image(t, "arm"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}}},
		mutate.IndexAddendum{Add: image(t, "x"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
	if err := remote.WriteIndex(many, index, remote.WithAuth(authenticator(login))); err != nil {
		t.Fatal(err)
	}
	digest, _ := img.Digest()
	indexDigest, _ := index.Digest()
	for _, test := range []struct {
		ref, want string
		platforms []*pb.ImagePlatform
	}{
		{host + "/one:1", host + "/one:1@" + digest.String(), []*pb.ImagePlatform{{Os: "linux", Architecture: "arm64"}}},
		{host + "/one@" + digest.String(), host + "/one@" + digest.String(), []*pb.ImagePlatform{{Os: "linux", Architecture: "arm64"}}},
		{host + "/many:2", host + "/many:2@" + indexDigest.String(), []*pb.ImagePlatform{{Os: "linux", Architecture: "amd64"}, {Os: "linux", Architecture: "arm"}}},
	} {
		got, err := Resolve(t.Context(), test.ref, login)
		if err != nil {
			t.Errorf("resolve %s: %v", test.ref, err)
			continue
		}
		if diff := cmp.Diff(Image{test.want, test.platforms}, got, protocmp.Transform()); diff != "" {
			t.Errorf("resolve %s (-want +got):\n%s", test.ref, diff)
		}
	}
	for _, ref := range []string{host + "/none:1", "127.0.0.1:1/one:1"} {
		if got, err := Resolve(t.Context(), ref, login); err == nil {
			t.Errorf("resolve %s found %v", ref, got)
		}
	}
	if _, err := Resolve(t.Context(), host+"/one:1", auth.EmptyCredential); err == nil {
		t.Error("resolved without credentials")
	}
}

func TestLogin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	config := `{"auths": {"reg.test:5000": {"auth": "bWU6cHc="}, "https://index.docker.io/v1/": {"identitytoken": "tok"}}}`
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]string{
		"reg.test:5000/a:1":         `{"username":"me","password":"pw","serveraddress":"reg.test:5000"}`,
		"docker.io/library/nginx:1": `{"identitytoken":"tok","serveraddress":"docker.io"}`,
		"other.test/a:1":            "",
	} {
		login, err := Login(t.Context(), path, image)
		if err != nil {
			t.Fatal(err)
		}
		got, err := PullAuth(image, login)
		if err != nil || string(got) != want {
			t.Errorf("credentials for %s: %s, %v", image, got, err)
		}
	}
	if login, err := Login(t.Context(), filepath.Join(t.TempDir(), "none.json"), "a"); err != nil || login != auth.EmptyCredential {
		t.Errorf("without a configuration: %v, %v", login, err)
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{"nginx": "docker.io/library/nginx:latest", "a.test/b:1": "a.test/b:1", "UPPER": ""} {
		got, err := Normalize(in)
		if got != want || (want == "") != fault.Is(err, fault.Invalid) {
			t.Errorf("Normalize(%q) = %q, %v", in, got, err)
		}
	}
}
