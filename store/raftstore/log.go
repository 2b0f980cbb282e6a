package raftstore

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// newLogger lets raft log to a slog.Logger.
func newLogger(logger *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(&sink{logger.With("component", "raft")})
	return l
}

type sink struct{ logger *slog.Logger }

// Accept takes raft's information as our debug output: what users care for,
// gained and lost leadership, package raftstore says itself.
func (s *sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Warn:
		to = slog.LevelWarn
	case hclog.Error:
		to = slog.LevelError
	}
	s.logger.Log(context.Background(), to, msg, args...)
}
