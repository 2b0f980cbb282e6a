package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFlagWinsOverEnvironmentWinsOverFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "minid.yaml")
	os.WriteFile(file, []byte("data-dir: /file\nrun-dir: /file\nname: file\nlabel: [a=1, b=2]\n"), 0o600)
	cmd := newCommand()
	if err := cmd.ParseFlags([]string{"--config", file, "--data-dir", "/flag"}); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"MINID_DATA_DIR": "/env", "MINID_RUN_DIR": "/env"}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	if err := applyDefaults(cmd, lookup); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"data-dir": "/flag", "run-dir": "/env", "name": "file", "label": "[a=1,b=2]"} {
		if got := cmd.Flags().Lookup(name).Value.String(); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func TestWrongUseExitsWith2(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	os.WriteFile(bad, []byte("no-such-key: 1\n"), 0o600)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--no-such-flag"}, "unknown flag"},
		{[]string{"start"}, `unknown command "start"`},
		{[]string{"--log-level", "loud"}, "use debug, info, warn or error"},
		{[]string{"--log-format", "xml"}, "use text or json"},
		{[]string{"--config", bad}, `unknown key "no-such-key"`},
		{[]string{"--listen-addr", "nonsense"}, "listen-addr"},
		{[]string{"--label", "nonsense"}, "key=value"},
		{[]string{"--generic-resource", "gpu"}, "use KIND=N or KIND=ID,ID"},
		{[]string{"--data-path-port", "53"}, "use one from 1024 to 49151"},
		{[]string{"--data-path-port", "99999"}, "data-path-port"},
	} {
		var out, errs bytes.Buffer
		if code := run(c.args, &out, &errs); code != 2 || !strings.Contains(errs.String(), c.says) {
			t.Errorf("minid %v: exit %d, said %q; want 2 and %q", c.args, code, errs.String(), c.says)
		}
	}
}
