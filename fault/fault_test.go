package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/minid/minid/fault"
)

func TestClassSurvivesWrapping(t *testing.T) {
	err := fmt.Errorf("create service: %w", fault.New(fault.Exists, "name %q is taken: %w", "web", io.EOF).WithTry("minictl service inspect web"))
	if !fault.Is(err, fault.Exists) || fault.TryOf(err) != "minictl service inspect web" || !errors.Is(err, io.EOF) {
		t.Errorf("class %v, try %q, cause %v", fault.ClassOf(err), fault.TryOf(err), errors.Is(err, io.EOF))
	}
	if fault.ClassOf(io.EOF) != fault.Internal || fault.Is(nil, fault.Internal) {
		t.Error("a plain error is Internal, nil has no class")
	}
}

func TestClassNamesRoundTrip(t *testing.T) {
	for c := fault.Internal; c <= fault.Lagged; c++ {
		if got := fault.ParseClass(c.String()); got != c {
			t.Errorf("%v came back as %v", c, got)
		}
	}
	if fault.ParseClass("no such class") != fault.Internal {
		t.Error("an unknown name must be Internal")
	}
}
