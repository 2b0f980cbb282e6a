package vip

import (
	"testing"

	"github.com/minid/minid/internal/realtest"
)

// TestMain runs everything in a fresh network namespace.
func TestMain(m *testing.M) { realtest.Main(m, nil) }
