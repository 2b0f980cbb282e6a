package containerd

import (
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/minid/minid/fault"
	sample "github.com/minid/minid/integration/sample/image"
	pb "github.com/minid/minid/proto/minid/v1"
)

// serveRegistry runs a registry on loopback; deny answers every request with a
// refusal once it is set.
func serveRegistry(t *testing.T) (host string, requests *atomic.Int64, deny *atomic.Bool) {
	t.Helper()
	requests, deny = new(atomic.Int64), new(atomic.Bool)
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		requests.Add(1)
		user, password, _ := req.BasicAuth()
		if deny.Load() && (user != "me" || password != "right") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), requests, deny
}

func TestPull(t *testing.T) {
	r := open(t)
	host, requests, deny := serveRegistry(t)
	ref := host + "/team/sample:v1"
	digest, err := sample.Push(t.Context(), ref, r.img)
	if err != nil {
		t.Fatal(err)
	}
	get := func(ref string, auth any) (*image, error) {
		raw := []byte(nil)
		if auth != nil {
			raw, _ = json.Marshal(auth)
		}
		return r.runtime.images.ensure(t.Context(), &pb.ContainerSpec{Image: ref, PullAuth: raw}, func(string) {})
	}
	img, err := get(ref, nil)
	if err != nil || img.Digest != digest {
		t.Fatalf("by tag: %+v, %v", img, err)
	}
	before := requests.Load()
	for range 20 {
		if _, err := get(ref, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := requests.Load() - before; n != 0 {
		t.Errorf("%d more requests for an image just checked", n)
	}
	if _, err := get(host+"/team/sample@"+digest, nil); err != nil {
		t.Error("by digest:", err)
	}
	if _, err := get(host+"/team/sample:none", nil); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "no such image") {
		t.Errorf("unknown tag: %v", err)
	}
	deny.Store(true)
	private := host + "/team/private:v1"
	for _, auth := range []any{nil, Auth{Username: "me", Password: "wrong"}} {
		if _, err := get(private, auth); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "authorisation") {
			t.Errorf("with %+v: %v", auth, err)
		}
	}
	if _, err := get(host+"/team/sample:v1", Auth{Username: "me", Password: "right"}); err != nil {
		t.Error("with credentials:", err)
	}
}

func TestPullFailures(t *testing.T) {
	r := open(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	l.Close()
	_, err = r.runtime.images.ensure(t.Context(), &pb.ContainerSpec{Image: dead + "/x:v1"}, func(string) {})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "not reachable") {
		t.Errorf("dead registry: %v", err)
	}
	for _, bad := range []string{"", "web/UPPER", "a b"} {
		if _, err := r.runtime.images.ensure(t.Context(), &pb.ContainerSpec{Image: bad}, func(string) {}); !fault.Is(err, fault.Invalid) {
			t.Errorf("image %q: %v", bad, err)
		}
	}
	host, _, _ := serveRegistry(t)
	other := "arm64"
	if platformSpec().Architecture == other {
		other = "amd64"
	}
	foreign, err := sample.Build(t.Context(), sample.Options{Arch: other})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sample.Push(t.Context(), host+"/foreign:v1", foreign); err != nil {
		t.Fatal(err)
	}
	_, err = r.runtime.images.ensure(t.Context(), &pb.ContainerSpec{Image: host + "/foreign:v1"}, func(string) {})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "is for linux/"+other) {
		t.Errorf("image for another platform: %v", err)
	}
}

func TestListAndRemoveImages(t *testing.T) {
	r := open(t)
	ref := "localhost/minid/removable:v1"
	if err := r.load(t.Context(), ref, r.img); err != nil {
		t.Fatal(err)
	}
	list, err := r.runtime.Images().List(t.Context())
	if err != nil || len(list) < 2 || list[0].SizeBytes == 0 {
		t.Errorf("listed %v, %v", list, err)
	}
	w := wanted("sleep")
	w.Spec.Container.Image = ref
	id := r.start(t, w)
	if err := r.runtime.Images().Remove(t.Context(), ref, false); !fault.Is(err, fault.InUse) {
		t.Errorf("removing an image in use: %v", err)
	}
	r.remove(t, id)
	if err := r.runtime.Images().Remove(t.Context(), ref, false); err != nil {
		t.Error(err)
	}
	if err := r.runtime.Images().Remove(t.Context(), ref, false); !fault.Is(err, fault.NotFound) {
		t.Errorf("removing it again: %v", err)
	}
	if _, err := r.runtime.Images().Load(t.Context(), strings.NewReader("no archive")); !fault.Is(err, fault.Invalid) {
		t.Errorf("loading rubbish: %v", err)
	}
}
