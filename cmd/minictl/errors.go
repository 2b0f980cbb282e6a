package main

import (
	"errors"
	"fmt"

	"github.com/minid/minid/fault"
)

// Exit codes, as the README lists them.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitUnplaceable = 5
	exitRollout     = 6
	exitTimeout     = 7
	exitUnreachable = 8
	exitDenied      = 9
	exitInterrupted = 130
)

// exitError is an error with an exit code of its own. Err may be nil: nothing
// is left to say then.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// interrupted keeps what a command has to say about its own interruption.
func interrupted(err error) error {
	if e, ok := errors.AsType[*exitError](err); ok && e.code == exitInterrupted {
		return err
	}
	return &exitError{code: exitInterrupted}
}

// exitCode is the code for an error; of several failures, the highest.
func exitCode(err error) int {
	code := exitFailure
	for _, e := range flatten(err) {
		code = max(code, exitCodeOf(e))
	}
	return code
}

func exitCodeOf(err error) int {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	switch fault.ClassOf(err) {
	case fault.Invalid:
		return exitUsage
	case fault.NotFound:
		return exitNotFound
	case fault.Exists, fault.Stale, fault.InUse:
		return exitConflict
	case fault.Timeout:
		return exitTimeout
	case fault.Unavailable, fault.NotManager:
		return exitUnreachable
	case fault.Denied:
		return exitDenied
	}
	return exitFailure
}

// flatten returns the single errors of a joined one.
func flatten(err error) []error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range many.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// report prints an error in its parts and returns the exit code.
func (c *cli) report(err error) int {
	for _, e := range flatten(err) {
		if silent, ok := errors.AsType[*exitError](e); ok && silent.err == nil {
			continue
		}
		fmt.Fprintf(c.stderr, "Error: %s\n", e.Error())
		if try := fault.TryOf(e); try != "" {
			fmt.Fprintf(c.stderr, "Try: %s\n", try)
		}
	}
	return exitCode(err)
}
