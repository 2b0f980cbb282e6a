// Package tasklog keeps what tasks print: rotated files on the node's disk,
// written by one goroutine per stream and followed by any number of readers.
//
// A line on disk is
//
//	2026-11-22T12:00:00.000000000Z stdout F text
//
// that is time (UTC, always nanoseconds), stream, F for the end of a line or P
// for a piece of a line that goes on, text. Everything before the text has a
// fixed width, so that lines can be counted from the end without parsing them.
// Lines longer than PieceSize are written as pieces and joined when read.
package tasklog

import (
	"bytes"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// PieceSize is where long lines are cut, in bytes.
	PieceSize = 16 << 10
	// JoinLimit bounds a joined line, in bytes; a longer one is emitted in parts.
	JoinLimit = 1 << 20

	timeLayout = "2006-01-02T15:04:05.000000000Z"
	flagAt     = len(timeLayout) + len(" stdout ")
	headerSize = flagAt + len("F ")
)

// piece is one line of a log file.
type piece struct {
	at     time.Time
	stream pb.Stream
	full   bool
	text   []byte
}

func appendPiece(buf []byte, p piece) []byte {
	buf = p.at.UTC().AppendFormat(buf, timeLayout)
	if p.stream == pb.Stream_STREAM_STDERR {
		buf = append(buf, " stderr "...)
	} else {
		buf = append(buf, " stdout "...)
	}
	if p.full {
		buf = append(buf, "F "...)
	} else {
		buf = append(buf, "P "...)
	}
	buf = append(buf, p.text...)
	return append(buf, '\n')
}

// parsePiece reads a line without its newline; ok is false for what a crash
// left half written.
func parsePiece(line []byte) (p piece, ok bool) {
	if len(line) < headerSize {
		return piece{}, false
	}
	at, err := time.Parse(timeLayout, string(line[:len(timeLayout)]))
	if err != nil {
		return piece{}, false
	}
	p = piece{at: at, full: line[flagAt] == 'F', text: line[headerSize:]}
	switch {
	case bytes.Equal(line[len(timeLayout):flagAt], []byte(" stdout ")):
		p.stream = pb.Stream_STREAM_STDOUT
	case bytes.Equal(line[len(timeLayout):flagAt], []byte(" stderr ")):
		p.stream = pb.Stream_STREAM_STDERR
	default:
		return piece{}, false
	}
	return p, true
}

// joiner puts the pieces of long lines together, per stream.
type joiner struct {
	open map[pb.Stream]*pb.LogEntry
}

// add returns the line that a piece completes, nil when it goes on.
func (j *joiner) add(p piece) *pb.LogEntry {
	e := j.open[p.stream]
	if e == nil {
		e = newEntry(p)
	} else {
		e.Text = append(e.Text, p.text...)
	}
	if p.full || len(e.Text) >= JoinLimit {
		delete(j.open, p.stream)
		return e
	}
	if j.open == nil {
		j.open = make(map[pb.Stream]*pb.LogEntry)
	}
	j.open[p.stream] = e
	return nil
}

// flush returns the unfinished lines, oldest first: at the end of a log they
// are lines like others.
func (j *joiner) flush() []*pb.LogEntry {
	var out []*pb.LogEntry
	for _, s := range []pb.Stream{pb.Stream_STREAM_STDOUT, pb.Stream_STREAM_STDERR} {
		if e := j.open[s]; e != nil {
			out = append(out, e)
		}
	}
	if len(out) == 2 && out[1].At.AsTime().Before(out[0].At.AsTime()) {
		out[0], out[1] = out[1], out[0]
	}
	j.open = nil
	return out
}

// oldest is the time of the oldest unfinished line, or t when that is earlier.
func (j *joiner) oldest(t time.Time) time.Time {
	for _, e := range j.open {
		if at := e.At.AsTime(); at.Before(t) {
			t = at
		}
	}
	return t
}
