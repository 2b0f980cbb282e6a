package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// litter leaves processes behind, waits for them to end, and tells how many stay
// as zombies because process 1 does not care for them.
func litter(a []string) error {
	for range number(a, 0, 1) {
		if err := exec.Command("/proc/self/exe", "leave").Run(); err != nil {
			return err
		}
	}
	zombies, alive := processes()
	for until := time.Now().Add(5 * time.Second); zombies+alive > 0 && time.Now().Before(until); zombies, alive = processes() {
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Printf("pid=%d zombies=%d alive=%d\n", os.Getpid(), zombies, alive)
	return nil
}

// leave starts a process and ends before it.
func leave([]string) error { return exec.Command("/proc/self/exe", "lines", "1", "100ms").Start() }

// processes counts those that have ended and those that have not, besides this
// one and process 1.
func processes() (zombies, alive int) {
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range names {
		pid := filepath.Base(filepath.Dir(name))
		text, err := os.ReadFile(name)
		if err != nil || pid == "1" || pid == fmt.Sprint(os.Getpid()) {
			continue
		}
		// proc(5): the state follows the name, which is in parentheses.
		_, rest, _ := strings.Cut(string(text), ") ")
		if strings.HasPrefix(rest, "Z") {
			zombies++
		} else {
			alive++
		}
	}
	return zombies, alive
}
