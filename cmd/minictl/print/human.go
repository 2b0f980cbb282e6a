package print

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// shortID is how many characters of an id tables show, as in Swarm.
const shortID = 12

// ID shortens an id unless whole.
func ID(id string, whole bool) string {
	if whole || len(id) <= shortID {
		return id
	}
	return id[:shortID]
}

// Truncate cuts a text to at most n characters, the last of them an ellipsis.
func Truncate(s string, n int) string {
	if n <= 0 || utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// Clean keeps a text from spoiling a table or a terminal: control characters
// become spaces.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// Ago is "5 minutes ago", empty for no time.
func Ago(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	return units.HumanDuration(max(0, now.Sub(t.AsTime()))) + " ago"
}

// Image is a reference as people write it: without the default registry and,
// unless whole, without the digest behind a tag.
func Image(image string, whole bool) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	if tagged, ok := named.(reference.NamedTagged); ok && !whole {
		if plain, err := reference.WithTag(reference.TrimNamed(named), tagged.Tag()); err == nil {
			named = plain
		}
	}
	return reference.FamiliarString(named)
}
