package spec

import (
	"path"
	"strings"

	"github.com/distribution/reference"
)

// nameSuffix is how much of a random id ends a made-up name.
const nameSuffix = 6

// DefaultName makes a name for a service that got none: the last part of its
// image's name and the end of a random id.
func DefaultName(image, id string) string {
	base := "service"
	if named, err := reference.ParseNormalizedNamed(image); err == nil {
		base = strings.Trim(path.Base(reference.Path(named)), "._-")
	}
	return base + "-" + id[max(0, len(id)-nameSuffix):]
}
