// Minictl is minid's command line: it speaks the control API through a node's
// socket, in the verbs and shapes that users of Docker Swarm know.
package main

import (
	"context"
	"io"
	"os"
	"time"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}

// run is the whole program but for the process around it.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, env func(string) string) int {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr, env: env, now: time.Now}
	return c.run(context.Background(), args)
}
