package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		old, next string
		want      []Change
	}{
		{"", "", nil},
		{"--replicas 2 -l a=1 -l b=2", "--replicas 3 -l a=2 -l b=2", []Change{
			{"labels.a", "1", "2"}, {"replicated.replicas", "2", "3"}}},
		{"-e A=1 -e B=2", "-e B=2 -e A=3 -e C=4", []Change{
			{"task.container.env", "A=1", "A=3"}, {"task.container.env", "", "C=4"}}},
		{"--update-order start-first", "--update-delay 90s", []Change{
			{"update.delay", "", "1m30s"}, {"update.order", "start-first", ""}}},
		{"--mode global", "--tty", []Change{
			{"global", "set", ""}, {"replicated.replicas", "", "1"}, {"task.container.tty", "", "true"}}},
		{"-p 80:80 -p 81:81", "-p 81:81 -p 82:82", []Change{
			{"task.ports", "mode=ingress,protocol=tcp,published=80,target=80", "mode=ingress,protocol=tcp,published=82,target=82"}}},
	} {
		old, err := createFrom(t, strings.Fields(c.old)...)
		if err != nil {
			t.Fatal(err)
		}
		next, err := createFrom(t, strings.Fields(c.next)...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, Diff(old, next)); diff != "" {
			t.Errorf("%q and %q (-want +got):\n%s", c.old, c.next, diff)
		}
	}
}
