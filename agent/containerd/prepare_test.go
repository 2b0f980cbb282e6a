package containerd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What runc says, as containerd passes it on, and what is told of it.
func TestStartError(t *testing.T) {
	const prefix = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
	tests := map[string]struct {
		runc, want string
		code       int32
	}{
		"no command":        {`exec: "/nothing": stat /nothing: no such file or directory: unknown`, "the command is not in image web:1: exec: \"/nothing\": stat /nothing: no such file or directory", 127},
		"not in PATH":       {`exec: "nothing": executable file not found in $PATH: unknown`, "the command is not in image web:1: exec: \"nothing\": executable file not found in $PATH", 127},
		"not executable":    {`exec: "/etc/passwd": permission denied: unknown`, "the command is not executable in image web:1: exec: \"/etc/passwd\": permission denied", 126},
		"foreign binary":    {`exec /bin/web: exec format error: unknown`, "the command of image web:1 is not for this platform", 126},
		"mount over a file": {`error during container init: error mounting "/srv" to rootfs at "/etc/passwd": not a directory: unknown`, `a mount is not possible: error mounting "/srv" to rootfs at "/etc/passwd": not a directory`, 0},
		"workdir is a file": {`error during container init: mkdir /etc/passwd: not a directory: unknown`, "the working directory is not possible: mkdir /etc/passwd: not a directory", 0},
		"something unheard": {`no such luck`, prefix + "no such luck", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, err := startError("web:1", errors.New(prefix+test.runc))
			if got := err.Error(); code != test.code || !strings.HasSuffix(got, test.want) {
				t.Errorf("got %d, %s\nwant %d, %s", code, got, test.code, test.want)
			}
		})
	}
}

func TestRemainsOf(t *testing.T) {
	const bundle = "/run/minid/containerd/state/io.containerd.runtime.v2.task/minid/t1"
	tests := map[string]string{
		"rpc error: mkdir " + bundle + ": file exists: unknown":     bundle,
		"mkdir " + bundle + "2: file exists":                        "",
		"mkdir " + bundle + ": no space left on device":             "",
		"mkdir /srv/t1: file exists":                                "",
		"mkdir io.containerd.runtime.v2.task/minid/t1: file exists": "",
		"task t1: already exists":                                   "",
	}
	for text, want := range tests {
		got, ok := remainsOf("t1", errors.New(text))
		if ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %t", text, got, ok)
		}
	}
}

func TestBelongs(t *testing.T) {
	if !belongs(os.Getpid(), filepath.Base(os.Args[0])) {
		t.Error("a process does not know its own command")
	}
	if belongs(os.Getpid(), "b7f1no-such-task") || belongs(1<<30, "") {
		t.Error("a process belongs to a task that it does not know")
	}
}
