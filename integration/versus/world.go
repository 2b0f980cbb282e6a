package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/minid/minid/integration/cluster"
	"github.com/minid/minid/integration/sample/image"
)

const (
	registryPort = 5000
	// registryHost is where machines find the registry.
	registryHost = "10.77.0.254:5000"
)

// world is what all clusters share: minid's programs and a registry.
type world struct {
	bin      string
	registry http.Handler
	// image is named by digest: then neither system asks the registry for what
	// it has, as both would for a tag.
	image string
	keep  bool
}

// newWorld builds the sample image into a registry in memory.
func newWorld(ctx context.Context, bin string, keep bool) (*world, error) {
	w := &world{bin: bin, registry: registry.New(registry.Logger(log.New(io.Discard, "", 0))), keep: keep}
	img, err := image.Build(ctx, image.Options{})
	if err != nil {
		return nil, err
	}
	server := httptest.NewServer(w.registry)
	defer server.Close()
	digest, err := image.Push(ctx, strings.TrimPrefix(server.URL, "http://")+"/sample:v1", img)
	w.image = fmt.Sprintf("%s/sample@%s", registryHost, digest)
	return w, err
}

// cluster makes the outside world of a new cluster, with the registry in it.
func (w *world) cluster() (*cluster.Cluster, func(), error) {
	c, err := cluster.New(cluster.Options{Bin: w.bin, Keep: w.keep})
	if err != nil {
		return nil, nil, err
	}
	port, err := c.Listen(registryPort)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	server := &http.Server{Handler: w.registry, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(port)
	return c, func() {
		server.Close()
		c.Close()
	}, nil
}
