package id_test

import (
	"bytes"
	"testing"

	"github.com/minid/minid/internal/id"
)

func TestNewIsDistinctAndOfFixedLength(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		s := id.New()
		if len(s) != id.Length || seen[s] {
			t.Fatalf("bad or repeated id %q", s)
		}
		seen[s] = true
	}
}

func TestEncodeExtremes(t *testing.T) {
	for _, b := range [][]byte{make([]byte, 16), bytes.Repeat([]byte{0xff}, 16)} {
		if got := id.Encode(b); len(got) != id.Length {
			t.Errorf("Encode(%x) = %q", b, got)
		}
	}
}
