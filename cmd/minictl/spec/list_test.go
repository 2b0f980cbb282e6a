package spec

import (
	"strings"
	"testing"
)

// What -rm removes is named without an example of how it is written.
func TestNounsOfLists(t *testing.T) {
	for _, f := range listFlags(update) {
		if strings.HasSuffix(f.name, "-rm") && strings.ContainsAny(f.usage, "[=") {
			t.Errorf("--%s: %q", f.name, f.usage)
		}
	}
}
