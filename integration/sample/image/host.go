package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// FromHost makes an image of a program of this host and of the libraries that it
// is linked with, as ldd finds them. It runs command, whose first word is the
// program's name in the image.
func FromHost(ctx context.Context, program string, command ...string) (v1.Image, error) {
	list, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("list libraries of %s: %w", program, err)
	}
	files := []file{{name: "tmp/", mode: 0o1777}}
	add := func(from, to string) error {
		text, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("read library or program: %w", err)
		}
		files = append(files, file{name: strings.TrimPrefix(to, "/"), mode: 0o755, text: text})
		return nil
	}
	if err := add(program, command[0]); err != nil {
		return nil, err
	}
	for field := range strings.FieldsSeq(string(list)) {
		if filepath.IsAbs(field) {
			if err := add(field, field); err != nil {
				return nil, err
			}
		}
	}
	img, err := oneLayer(files)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Entrypoint: command, WorkingDir: "/tmp"}
	return mutate.ConfigFile(img, config)
}
