package probe_test

import (
	"os"
	"testing"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/probe"
)

func TestThisKernelCarriesNetworks(t *testing.T) {
	realtest.NeedRoot(t)
	features, err := probe.Features()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range features {
		if f.Err != nil {
			t.Errorf("%s: %v", f.Name, f.Err)
		}
	}
	// Nothing is left in the namespace that the test itself is in.
	if _, err := os.Stat("/sys/class/net/mnprobe0"); err == nil {
		t.Error("the probe left a link behind")
	}
}
