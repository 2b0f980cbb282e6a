// Package image builds the sample image from its Go source: one static binary,
// a few files to look up users in, and a directory for volumes to copy.
//
// The image is the same bytes for the same source, version and Go release, so
// its digest is stable.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Source is the import path of the program.
const Source = "github.com/minid/minid/integration/sample"

// Options of an image.
type Options struct {
	// Version that the program tells; "v1" if empty.
	Version string
	// Arch is a GOARCH; empty is this machine's.
	Arch string
	// User, Volumes, StopSignal and Env go into the image's configuration.
	User       string
	Volumes    []string
	StopSignal string
	Env        []string
	// Health is the image's health check.
	Health *v1.HealthConfig
}

// Compile builds the program as a static binary into dir and returns its path.
// It must be called within the module.
func Compile(ctx context.Context, dir, version, arch string) (string, error) {
	out := filepath.Join(dir, "sample-"+version+"-"+arch)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+version, "-o", out, Source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sample: %w: %s", err, text)
	}
	return out, nil
}

// Build compiles the program and makes an image of it.
func Build(ctx context.Context, opts Options) (v1.Image, error) {
	if opts.Version == "" {
		opts.Version = "v1"
	}
	if opts.Arch == "" {
		opts.Arch = runtime.GOARCH
	}
	dir, err := os.MkdirTemp("", "minid-sample-")
	if err != nil {
		return nil, fmt.Errorf("make build directory: %w", err)
	}
	defer os.RemoveAll(dir)
	binary, err := Compile(ctx, dir, opts.Version, opts.Arch)
	if err != nil {
		return nil, err
	}
	return fromBinary(binary, opts)
}

// oneLayer is an image of some files.
func oneLayer(files []file) (v1.Image, error) {
	layer, err := layerOf(files)
	if err != nil {
		return nil, err
	}
	opened, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, opened)
	if err != nil {
		return nil, fmt.Errorf("add layer: %w", err)
	}
	return img, nil
}

func fromBinary(binary string, opts Options) (v1.Image, error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("read sample: %w", err)
	}
	img, err := oneLayer(contents(program))
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", opts.Arch
	config.Config = v1.Config{
		Entrypoint: []string{"/bin/sample"}, Cmd: []string{"serve"}, Env: append([]string{"PATH=/bin"}, opts.Env...),
		WorkingDir: "/data", User: opts.User, StopSignal: opts.StopSignal,
		ExposedPorts: map[string]struct{}{"8080/tcp": {}}, Healthcheck: opts.Health,
	}
	for _, v := range opts.Volumes {
		if config.Config.Volumes == nil {
			config.Config.Volumes = make(map[string]struct{})
		}
		config.Config.Volumes[v] = struct{}{}
	}
	return mutate.ConfigFile(img, config)
}

// file of a layer.
type file struct {
	name string
	mode int64
	uid  int
	text []byte // nil is a directory, or a link
	link string
}

// contents are the sample image's files.
func contents(program []byte) []file {
	return []file{
		{name: "bin/", mode: 0o755},
		{name: "bin/sample", mode: 0o755, text: program},
		{name: "bin/sh", mode: 0o777, link: "sample"}, // what health checks call
		{name: "data/", mode: 0o750, uid: 1000},
		{name: "data/greeting", mode: 0o640, uid: 1000, text: []byte("hello from the image\n")},
		{name: "etc/", mode: 0o755},
		{name: "etc/passwd", mode: 0o644, text: []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")},
		{name: "etc/group", mode: 0o644, text: []byte("root:x:0:\nuser:x:1000:\nstaff:x:50:user\n")},
		{name: "etc/not-executable", mode: 0o644, text: []byte("text\n")},
		{name: "tmp/", mode: 0o1777},
	}
}

// layerOf writes a layer.
func layerOf(files []file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		kind := byte(tar.TypeReg)
		switch {
		case f.link != "":
			kind = tar.TypeSymlink
		case f.text == nil:
			kind = tar.TypeDir
		}
		err := w.WriteHeader(&tar.Header{
			Name: f.name, Mode: f.mode, Uid: f.uid, Gid: f.uid, Size: int64(len(f.text)), Typeflag: kind, Linkname: f.link, ModTime: time.Unix(0, 0),
		})
		if err == nil {
			_, err = w.Write(f.text)
		}
		if err != nil {
			return nil, fmt.Errorf("write layer: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	return buf.Bytes(), nil
}

// WriteTarball writes images by reference as an archive that `minictl image
// load` and `docker load` read.
func WriteTarball(w io.Writer, images map[string]v1.Image) error {
	byTag := make(map[name.Tag]v1.Image, len(images))
	for ref, img := range images {
		tag, err := name.NewTag(ref)
		if err != nil {
			return fmt.Errorf("name image: %w", err)
		}
		byTag[tag] = img
	}
	if err := tarball.MultiWrite(byTag, w); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

// Push uploads an image to a registry without TLS on this host, such as
// go-containerregistry's, and returns its digest.
func Push(ctx context.Context, ref string, img v1.Image, opts ...remote.Option) (string, error) {
	tag, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("name image: %w", err)
	}
	if err := remote.Write(tag, img, append(opts, remote.WithContext(ctx))...); err != nil {
		return "", fmt.Errorf("push image: %w", err)
	}
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("read digest: %w", err)
	}
	return digest.String(), nil
}
