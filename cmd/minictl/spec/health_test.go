package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestHealthFlags(t *testing.T) {
	for _, c := range []struct {
		old, args, want string
		// fails is part of the error instead of a result.
		fails string
	}{
		{"", "--health-cmd=stat=/ok --health-interval=5s --health-timeout=1s --health-retries=2 --health-start-period=1m --health-start-interval=1s --health-action=unready",
			`test: "CMD-SHELL" test: "stat=/ok" interval { seconds: 5 } timeout { seconds: 1 } retries: 2 start_period { seconds: 60 } start_interval { seconds: 1 } action: ACTION_UNREADY`, ""},
		{"", "--health-retries=2", "retries: 2", ""},
		{"", "--health-cmd=", "", ""},
		{"", "--no-healthcheck", `test: "NONE"`, ""},
		{"", "--no-healthcheck=false", "", ""},
		{"retries: 2", "--no-healthcheck", `test: "NONE"`, ""},
		{`test: "NONE"`, "--no-healthcheck=false", "", ""},
		{`test: "NONE"`, "--health-cmd=x", `test: "CMD-SHELL" test: "x"`, ""},
		{`test: "NONE"`, "--no-healthcheck=false --health-retries=3", "retries: 3", ""},
		{`test: "CMD-SHELL" test: "x" retries: 2`, "--health-cmd=", "retries: 2", ""},
		{"", "--no-healthcheck --health-cmd=x", "", "exclude each other"},
		{"", "--no-healthcheck --health-retries=1", "", "exclude each other"},
		{`test: "NONE"`, "--health-retries=1", "", "turn them on"},
		{`test: "NONE"`, "--health-interval=1s", "", "turn them on"},
		{"", "--health-action=die", "", "restart"},
		{"", "--health-retries=-1", "", "count"},
		{"", "--health-interval=soon", "", "invalid --health-interval"},
	} {
		t.Run(c.old+" "+c.args, func(t *testing.T) {
			wrap := func(text string) string {
				if text == "" {
					return "task { container {} }"
				}
				return "task { container { health { " + text + " } } }"
			}
			got, err := updateFrom(t, parse(t, wrap(c.old)), strings.Fields(c.args)...)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("got %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(parse(t, wrap(c.want)), got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
