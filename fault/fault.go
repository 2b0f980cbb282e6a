// Package fault gives errors a class that survives the wire and the three
// parts that users need: what failed, why, and what to do next.
//
// A class decides the gRPC code (package rpc) and minictl's exit code.
package fault

import (
	"errors"
	"fmt"
)

// Class says what kind of failure an error is, for those who branch on it.
type Class int

// The classes.
const (
	// Internal is a failure nobody foresaw; every error without a class.
	Internal Class = iota
	// Invalid input: the caller must change it.
	Invalid
	// NotFound: the named object does not exist.
	NotFound
	// Exists: the name is taken.
	Exists
	// Stale: the object changed since it was read.
	Stale
	// InUse: something else needs the object.
	InUse
	// State: not possible in the present state (node is up, cluster exists).
	State
	// Denied: the caller may not do it.
	Denied
	// Unavailable: no leader, no manager in reach, disk full; may work later.
	Unavailable
	// NotManager: this node is no manager or in no cluster.
	NotManager
	// Timeout: a deadline passed.
	Timeout
	// Lagged: the history that was asked for is gone; start over.
	Lagged
)

var classNames = [...]string{"internal", "invalid", "not-found", "exists", "stale", "in-use", "state", "denied", "unavailable", "not-manager", "timeout", "lagged"}

func (c Class) String() string {
	if c < 0 || int(c) >= len(classNames) {
		return "internal"
	}
	return classNames[c]
}

// ParseClass is the inverse of Class.String; unknown names are Internal.
func ParseClass(name string) Class {
	for i, n := range classNames {
		if n == name {
			return Class(i)
		}
	}
	return Internal
}

// Error is an error with a class and, where there is one, a next step.
type Error struct {
	Class Class
	// Message is "what: why".
	Message string
	// Try is a command or an action that helps.
	Try string
	// Err is the cause, for errors.Is.
	Err error
}

// New makes an error of a class; %w works as in fmt.Errorf.
func New(class Class, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Class: class, Message: err.Error(), Err: errors.Unwrap(err)}
}

// WithTry returns a copy of the error with a next step.
func (e *Error) WithTry(format string, args ...any) *Error {
	c := *e
	c.Try = fmt.Sprintf(format, args...)
	return &c
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

// ClassOf finds the class of an error, Internal if it has none.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Internal
}

// Is reports whether an error is of a class.
func Is(err error, class Class) bool { return err != nil && ClassOf(err) == class }

// TryOf finds the next step of an error, empty if it has none.
func TryOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Try
	}
	return ""
}
