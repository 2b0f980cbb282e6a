package main

import (
	"fmt"
	"os"
	"time"
)

// job writes that it begins to the end of a file, works for a while, writes
// that it ends, and ends with a code. Who it is says the environment's WHO.
func job(a []string) error {
	delay, err := time.ParseDuration(arg(a, 1, "0s"))
	if err != nil {
		return err
	}
	if err := note(arg(a, 0, ""), "begin"); err != nil {
		return err
	}
	time.Sleep(delay)
	if err := note(arg(a, 0, ""), "end"); err != nil {
		return err
	}
	os.Exit(number(a, 2, 0))
	return nil
}

// note adds a line to a file that others write to as well, and to the log.
func note(file, what string) error {
	line := fmt.Sprintf("%s %s\n", what, os.Getenv("WHO"))
	fmt.Print(line)
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	return f.Close()
}
