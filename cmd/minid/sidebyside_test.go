package main

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAlign(t *testing.T) {
	for _, c := range []struct{ left, right, marks string }{
		{"a b c", "a b c", "   "},
		{"a b c", "a c", " < "},
		{"a c", "a b c", " > "},
		{"a b c", "a x c", " | "},
		{"a b", "x y z", "||>"},
		{"a b c d", "c d", "<<  "},
		{"a } b }", "a } }", "  < "},
		{"a", "b a b", "> >"},
	} {
		var marks strings.Builder
		for _, r := range align(strings.Fields(c.left), strings.Fields(c.right)) {
			marks.WriteByte(r.mark)
		}
		if marks.String() != c.marks {
			t.Errorf("%s and %s: %q, want %q", c.left, c.right, marks.String(), c.marks)
		}
	}
}

// Every line of both texts is there once, in order, and marks tell the truth.
func TestAlignLosesNothing(t *testing.T) {
	text := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "}"}), 0, 12)
	rapid.Check(t, func(t *rapid.T) {
		left, right := text.Draw(t, "left"), text.Draw(t, "right")
		var gotLeft, gotRight []string
		for _, r := range align(left, right) {
			if r.mark != '>' {
				gotLeft = append(gotLeft, r.left)
			}
			if r.mark != '<' {
				gotRight = append(gotRight, r.right)
			}
			if (r.mark == ' ') != (r.left == r.right) {
				t.Fatalf("%+v", r)
			}
		}
		if strings.Join(gotLeft, " ") != strings.Join(left, " ") || strings.Join(gotRight, " ") != strings.Join(right, " ") {
			t.Fatalf("%v and %v became %v and %v", left, right, gotLeft, gotRight)
		}
	})
}
