package machine

import (
	"strings"
	"testing"
)

func TestTextIsCutAfterLines(t *testing.T) {
	whole := strings.Repeat(strings.Repeat("x", 99)+"\n", 25_000)
	var pieces []string
	for rest := whole; rest != ""; {
		var first string
		first, rest = cut(rest)
		if len(first) > pieceSize || !strings.HasSuffix(first, "\n") {
			t.Fatalf("a piece of %d bytes ends in %q", len(first), first[len(first)-1])
		}
		pieces = append(pieces, first)
	}
	if len(pieces) != 3 || strings.Join(pieces, "") != whole {
		t.Errorf("%d pieces", len(pieces))
	}
	if first, rest := cut("short"); first != "short" || rest != "" {
		t.Errorf("%q, %q", first, rest)
	}
}
