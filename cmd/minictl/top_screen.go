package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"

	"github.com/minid/minid/cmd/minictl/print"
	pb "github.com/minid/minid/proto/minid/v1"
)

// errQuit is why a top ends when the user has seen enough.
var errQuit = errors.New("quit")

// onScreen redraws the table in place until the user presses q or Ctrl-C.
func (t *top) onScreen(ctx context.Context, a *api, req *pb.UsageRequest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if fd, ok := terminal(t.cli.stdin); ok {
		state, err := term.MakeRaw(fd)
		if err != nil {
			return fmt.Errorf("set terminal to raw mode: %w", err)
		}
		defer term.Restore(fd, state)
		go readKeys(t.cli.stdin, cancel)
	}
	io.WriteString(t.cli.stdout, hideCursor+clearScreen)
	defer io.WriteString(t.cli.stdout, showCursor)
	err := t.follow(ctx, a, req, func() error { return t.draw("") }, func(err error) { t.draw(err.Error()) })
	switch {
	case errors.Is(err, errQuit):
		return nil
	case errors.Is(err, errInterrupted):
		return interrupted(err)
	}
	return err
}

// What terminals understand.
const (
	clearScreen = "\x1b[H\x1b[2J"
	topLeft     = "\x1b[H"
	clearLine   = "\x1b[K"
	clearRest   = "\x1b[J"
	hideCursor  = "\x1b[?25l"
	showCursor  = "\x1b[?25h"
)

// readKeys ends the command on q or, which a raw terminal makes no signal of,
// Ctrl-C. It ends with the process: nothing else ends a read of a terminal.
func readKeys(keys io.Reader, cancel context.CancelCauseFunc) {
	const interruptKey = 3
	key := make([]byte, 1)
	for {
		if _, err := keys.Read(key); err != nil {
			return
		}
		switch key[0] {
		case 'q', 'Q':
			cancel(errQuit)
		case interruptKey:
			cancel(errInterrupted)
		}
	}
}

// draw shows the board, and what is wrong, within the screen. All of it is one
// write, so that it does not flicker.
func (t *top) draw(trouble string) error {
	width, height := 80, 24
	if fd, ok := terminal(t.cli.stdout); ok {
		if w, h, err := term.GetSize(fd); err == nil && w > 0 && h > 1 {
			width, height = w, h
		}
	}
	lines, err := t.picture(trouble, width)
	if err != nil {
		return err
	}
	if hidden := len(lines) - (height - 1); hidden > 0 {
		lines = append(lines[:height-2], fmt.Sprintf("… and %d more", hidden+1))
	}
	text := topLeft
	for _, line := range lines {
		text += print.Truncate(line, width) + clearLine + "\r\n"
	}
	_, err = io.WriteString(t.cli.stdout, text+clearRest)
	return err
}

// picture is the lines to show, which may be more than the screen has: the sum,
// what is wrong, and the table.
func (t *top) picture(trouble string, width int) ([]string, error) {
	lines := []string{t.summary()}
	if trouble != "" {
		lines = append(lines, "Reconnecting: "+print.Clean(trouble))
	}
	for _, row := range t.board.Troubles() {
		lines = append(lines, "Warning: "+troubleText(row))
	}
	var table bytes.Buffer
	f := t.format
	f.Width = width
	if err := topColumns(t.nodes).Write(&table, f, t.rows(), true); err != nil {
		return nil, err
	}
	lines = append(lines, "")
	return append(lines, strings.Split(strings.TrimRight(table.String(), "\n"), "\n")...), nil
}
