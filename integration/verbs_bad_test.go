package integration_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/integration/sample/image"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestBadInput is what users mistype: each has its exit code, says what was
// wrong in their words, and changes nothing.
func TestBadInput(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	w.submit(t, via, service{name: "taken", flags: []string{"--label", "a=b"}})
	ctl(t, via, "config", "create", "taken", "/etc/hostname")
	w.undo(t, "config", "rm", "taken")
	empty := filepath.Join(t.TempDir(), "empty")
	big := filepath.Join(t.TempDir(), "big")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(big, make([]byte, 2<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	const usage, missing, conflict = 2, 3, 4
	for _, c := range []struct {
		code  int
		words []string
		args  string
	}{
		{conflict, []string{"the name is taken", "Try: minictl service update taken"}, "service create --name taken IMAGE"},
		{conflict, []string{"the name is taken", "Try: minictl config inspect taken"}, "config create taken /etc/hostname"},
		{usage, []string{`name "-x"`, "must begin"}, "config create -- -x /etc/hostname"},
		{usage, []string{"unknown flag: --bogus", "Try: minictl service create --help"}, "service create --bogus IMAGE"},
		{usage, []string{"unknown flag: --bogus", "Try: minictl node ls --help"}, "node ls --bogus"},
		{missing, []string{"network x", "Try: minictl network create x"}, "service create --network x IMAGE"},
		{usage, []string{`unknown command "servce"`, `did you mean "service"?`}, "servce ls"},
		{usage, []string{"needs at least 1 argument"}, "service create"},
		{usage, []string{"at most 1 argument", "Try:"}, "service update a b"},
		{usage, []string{"invalid image", "must be lowercase"}, "service create Upper:x:y"},
		{usage, []string{"invalid --replicas", "expected a count"}, "service create --replicas few IMAGE"},
		{usage, []string{"invalid --replicas", "mode replicated"}, "service create --mode global --replicas 2 IMAGE"},
		{usage, []string{"invalid --mode", "replicated, global"}, "service create --mode sometimes IMAGE"},
		{usage, []string{"invalid --mount", "expected bind, volume or tmpfs"}, "service create --mount type=cloud,target=/x IMAGE"},
		{usage, []string{"invalid --mount", "absolute source"}, "service create --mount type=bind,source=x,target=/x IMAGE"},
		{usage, []string{"invalid --mount", "not an absolute path"}, "service create --mount type=tmpfs,target=x IMAGE"},
		{usage, []string{"invalid --mount", "has the target /x already"}, "service create --mount type=tmpfs,target=/x --mount type=tmpfs,target=/x IMAGE"},
		{usage, []string{"no port number"}, "service create -p mode=host,target=70000 IMAGE"},
		{usage, []string{"80:80:80", "no address of a host"}, "service create -p 80:80:80 IMAGE"},
		{usage, []string{"8080", "Error:"}, "service create -p mode=host,published=8080,target=1 -p mode=host,published=8080,target=2 IMAGE"},
		{usage, []string{"unknown key", "Try: use node.id"}, "service create --constraint node.size==big IMAGE"},
		{usage, []string{"no operator", "KEY==VALUE"}, "service create --constraint big IMAGE"},
		{usage, []string{"spread="}, "service create --placement-pref big IMAGE"},
		{usage, []string{"limit-memory", "4 MiB is the least"}, "service create --limit-memory 1k IMAGE"},
		{usage, []string{"expected a size"}, "service create --limit-memory much IMAGE"},
		{usage, []string{"more is reserved than the limit"}, "service create --limit-memory 8m --reserve-memory 9m IMAGE"},
		{usage, []string{"number of CPUs"}, "service create --limit-cpu half IMAGE"},
		{usage, []string{"there is no such signal"}, "service create --stop-signal SIGNOTHING IMAGE"},
		{usage, []string{"the kernel has none"}, "service create --cap-add FLY IMAGE"},
		{usage, []string{"bad template", "Nmae", "Try:"}, "service create --hostname {{.Service.Nmae}} IMAGE"},
		{usage, []string{"expected a duration"}, "service create --restart-delay soon IMAGE"},
		{usage, []string{"between 0 and 1"}, "service create --update-max-failure-ratio 2 IMAGE"},
		{usage, []string{"json-file, local and minid"}, "service create --log-driver syslog IMAGE"},
		{usage, []string{"expected KEY=VALUE"}, "service create --env =x IMAGE"},
		{usage, []string{"--timeout", "positive"}, "service create --timeout 0s IMAGE"},
		{usage, []string{"--progress", "plain"}, "service create --progress loud IMAGE"},
		{missing, []string{"secret nothing", "Try: minictl secret create nothing"}, "service create --secret nothing IMAGE"},
		{missing, []string{"config nothing", "Try: minictl config create nothing"}, "service create --config nothing IMAGE"},
		{missing, []string{"find service nothing", "Try: minictl service ls"}, "service inspect nothing"},
		{missing, []string{"find service nothing"}, "service update --force nothing"},
		{missing, []string{"find service nothing"}, "service scale nothing=1"},
		{missing, []string{"find service nothing"}, "service ps nothing"},
		{missing, []string{"find service nothing"}, "service rm nothing"},
		{missing, []string{"logs of nothing"}, "service logs nothing"},
		{missing, []string{"find task nothing", "Try: minictl task ls"}, "task why nothing"},
		{missing, []string{"find secret nothing", "Try: minictl secret ls"}, "secret inspect nothing"},
		{missing, []string{"find node nothing", "Try: minictl node ls"}, "node update --label-add a=b nothing"},
		{usage, []string{"expected SERVICE=REPLICAS"}, "service scale taken"},
		{usage, []string{"no such key here", "name"}, "service ls -f colour=red"},
		{usage, []string{"KEY=VALUE"}, "service ls -f x"},
		{usage, []string{"unknown format", "Try:"}, "service ls --format xml"},
		{usage, []string{"template"}, "service ls --format {{.Nothing}}"},
		{usage, []string{"template"}, "service ls --format {{"},
		{usage, []string{"Error:"}, "logs --since yesterday taken"},
		{usage, []string{"Error:"}, "logs --tail some taken"},
		{usage, []string{"too many", "512000 are the most"}, "secret create large " + big},
		{usage, []string{"empty"}, "secret create nothing " + empty},
		{1, []string{"no such file"}, "secret create nothing /no/such/file"},
		{8, []string{"Try:"}, "-H unix:///no/such/socket node ls"},
	} {
		t.Run(c.args, func(t *testing.T) {
			refused(t, via, c.code, append(c.words, "Error: "), strings.Fields(strings.ReplaceAll(c.args, "IMAGE", "--no-resolve-image "+sampleV1))...)
		})
	}
	if got := ctl(t, via, "service", "ls", "--format", "{{.Name}}"); got != "taken" {
		t.Errorf("services after all that was refused: %q", got)
	}
	staleVersion(t, w)
}

// staleVersion writes a service that has changed since it was read.
func staleVersion(t *testing.T, w *world) {
	t.Helper()
	_, via, _ := w.names(t)
	c := api(t, via)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	read, err := c.Control.GetService(ctx, &pb.GetRequest{Ref: "taken"})
	if err != nil {
		t.Fatal(err)
	}
	ctl(t, via, "service", "update", "--detach", "--label-add", "c=d", "taken")
	_, err = c.Control.UpdateService(ctx, &pb.UpdateServiceRequest{Ref: read.Id, IfVersion: read.Meta.Version, Spec: read.Spec})
	if fault.ClassOf(err) != fault.Stale {
		t.Errorf("a write over another's change: %v", err)
	}
}

// TestCannotRun is what only nodes find out. The reason reaches `service ps`.
func TestCannotRun(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	pushVariant(t, "foreign:1", func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	cases := []struct {
		name    string
		flags   []string
		image   string
		command []string
		words   []string
	}{
		{"no-user", []string{"--user", "stranger"}, sampleV1, nil, []string{"stranger"}},
		{"no-program", []string{"--entrypoint", "/no/program"}, sampleV1, nil, []string{"/no/program", "no such file"}},
		{"not-executable", []string{"--entrypoint", "/etc/not-executable"}, sampleV1, nil, []string{"permission denied"}},
		{"no-source", []string{"--mount", "type=bind,source=/no/such/directory,target=/x"}, sampleV1, nil, []string{"/no/such/directory"}},
		{"no-image", []string{"--no-resolve-image"}, registryHost + "/nothing:1", nil, []string{"nothing:1"}},
		{"no-registry", []string{"--no-resolve-image"}, "10.77.0.254:5999/nothing:1", nil, []string{"10.77.0.254:5999", "connection refused"}},
		{"foreign", []string{"--no-resolve-image"}, registryHost + "/foreign:1", nil, []string{"linux/amd64"}},
		{"foreign-known", nil, registryHost + "/foreign:1", nil, []string{"linux/amd64", "for which the image is not built"}},
	}
	for _, c := range cases {
		args := append([]string{"service", "create", "--detach", "--name", c.name, "--restart-condition", "none"}, c.flags...)
		ctl(t, via, append(append(args, c.image), c.command...)...)
		w.drop(t, c.name)
	}
	for _, c := range cases {
		await(t, c.name+" says why", patience, func() error {
			out := try(t, via, "service", "ps", "--no-trunc", c.name).Stdout + try(t, via, "task", "inspect", c.name+".1").Stdout
			for _, word := range c.words {
				if !strings.Contains(out, word) {
					return errors.New("no " + word + " in " + out)
				}
			}
			return nil
		})
	}
	res := try(t, via, "service", "create", "--name", "waits", "--timeout", "3s", "--user", "stranger", sampleV1)
	w.drop(t, "waits")
	if res.Code != 7 || !strings.Contains(res.Stderr, "stranger") {
		t.Errorf("create of what cannot run: code %d: %s", res.Code, res.Stderr)
	}
}

// pushVariant puts a changed sample image into the registry.
func pushVariant(t *testing.T, ref string, change func(*v1.ConfigFile)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	images, err := sampleRegistry()
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Build(ctx, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	change(config)
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	if err := offer(ctx, images, ref, img); err != nil {
		t.Fatal(err)
	}
}
