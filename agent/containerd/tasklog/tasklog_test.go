package tasklog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func stdout(r io.Reader) Source {
	return Source{pb.Stream_STREAM_STDOUT, io.NopCloser(r)}
}

// texts reads a log to its end and returns its lines.
func texts(t *testing.T, s *Store, id string, req *pb.LogsAttach) []string {
	t.Helper()
	var out []string
	err := s.Read(t.Context(), id, req, func(b *pb.LogBatch) error {
		for _, e := range b.Entries {
			out = append(out, string(e.Text))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		line := rapid.OneOf(
			rapid.StringMatching(`[a-z ]{0,30}`),
			rapid.Map(rapid.IntRange(PieceSize-2, 3*PieceSize), func(n int) string { return strings.Repeat("x", n) }),
		)
		lines := rapid.SliceOfN(line, 1, 40).Draw(rt, "lines")
		s := NewStore(dir)
		text := strings.Join(lines, "\n") + "\n"
		if err := s.Attach("t", &pb.LogConfig{MaxSizeBytes: rapid.Int64Range(100, 1<<20).Draw(rt, "size"), MaxFiles: 1000}, stdout(strings.NewReader(text))); err != nil {
			rt.Fatal(err)
		}
		s.Close()
		if got := texts(t, s, "t", &pb.LogsAttach{Tail: -1}); !slices.Equal(got, lines) {
			rt.Fatalf("read %d lines, want %d", len(got), len(lines))
		}
		n := rapid.IntRange(0, len(lines)+3).Draw(rt, "tail")
		want := lines[max(0, len(lines)-n):]
		if got := texts(t, s, "t", &pb.LogsAttach{Tail: int64(n)}); !slices.Equal(got, want) {
			rt.Fatalf("tail %d: got %d lines, want %d", n, len(got), len(want))
		}
	})
}

func TestRotationBoundsDisk(t *testing.T) {
	dir := t.TempDir()
	s := NewStore(dir)
	pr, pw := io.Pipe()
	if err := s.Attach("t", &pb.LogConfig{MaxSizeBytes: 4000, MaxFiles: 3}, stdout(pr)); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		fmt.Fprintf(pw, "line %d\n", i)
	}
	pw.Close()
	s.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "t", "*.log"))
	if len(files) != 3 {
		t.Errorf("%d files, want 3: %v", len(files), files)
	}
	got := texts(t, s, "t", &pb.LogsAttach{Tail: -1})
	if len(got) == 0 || got[len(got)-1] != "line 999" {
		t.Fatalf("the newest line is gone: %v", got)
	}
	if got := texts(t, s, "t", &pb.LogsAttach{Tail: 100}); len(got) != 100 || got[0] != "line 900" {
		t.Errorf("tail across files: %d lines, first %q", len(got), got[0])
	}
}

func TestFollowAcrossRotationUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(t.TempDir())
		pr, pw := io.Pipe()
		if err := s.Attach("t", &pb.LogConfig{MaxSizeBytes: 500, MaxFiles: 100}, stdout(pr)); err != nil {
			t.Fatal(err)
		}
		var got []string
		marks := 0
		last := time.Time{}
		done := make(chan error, 1)
		go func() {
			done <- s.Read(t.Context(), "t", &pb.LogsAttach{Follow: true, Tail: -1}, func(b *pb.LogBatch) error {
				for _, e := range b.Entries {
					if e.At.AsTime().Before(last) {
						t.Errorf("entry at %v after watermark %v", e.At.AsTime(), last)
					}
					got = append(got, string(e.Text))
				}
				if b.Watermark != nil {
					marks++
					last = b.Watermark.AsTime()
				}
				return nil
			})
		}()
		for i := range 50 {
			fmt.Fprintf(pw, "line %d\n", i)
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		fmt.Fprint(pw, "no newline")
		pw.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(got) != 51 || got[0] != "line 0" || got[50] != "no newline" {
			t.Errorf("followed %d lines: %q", len(got), got)
		}
		if marks < 10 {
			t.Errorf("%d watermarks in 4.5 s", marks)
		}
	})
}

func TestSinceStreamsAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(t.TempDir())
		out, outW := io.Pipe()
		errs, errW := io.Pipe()
		if err := s.Attach("t", nil, stdout(out), Source{pb.Stream_STREAM_STDERR, errs}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(outW, "old")
		time.Sleep(time.Hour)
		fmt.Fprintln(errW, "new")
		synctest.Wait()
		since := timestamppb.New(time.Now().Add(-time.Minute))
		if got := texts(t, s, "t", &pb.LogsAttach{Tail: -1, Since: since}); !slices.Equal(got, []string{"new"}) {
			t.Errorf("since: %q", got)
		}
		if err := s.Attach("t", nil, stdout(strings.NewReader(""))); err == nil {
			t.Error("a second writer was let in")
		}
		outW.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Wait(ctx, "t"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with one stream open: %v", err)
		}
		errW.Close()
		if err := s.Wait(t.Context(), "t"); err != nil {
			t.Error(err)
		}
		if err := s.Remove("t"); err != nil {
			t.Error(err)
		}
		if err := s.Read(t.Context(), "t", &pb.LogsAttach{}, nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("removed log: %v", err)
		}
	})
}

func TestTornLineIsCutOff(t *testing.T) {
	s := NewStore(t.TempDir())
	if err := s.Attach("t", nil, stdout(strings.NewReader("whole\n"))); err != nil {
		t.Fatal(err)
	}
	s.Close()
	name := fileName(filepath.Join(s.dir, "t"), 1)
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("2026-11-22T12:00:00.000000000Z stdo")
	f.Close()
	again := NewStore(s.dir)
	if err := again.Attach("t", nil, stdout(strings.NewReader("after restart\n"))); err != nil {
		t.Fatal(err)
	}
	again.Close()
	if got := texts(t, again, "t", &pb.LogsAttach{Tail: -1}); !slices.Equal(got, []string{"whole", "after restart"}) {
		t.Errorf("got %q", got)
	}
}

func FuzzParsePiece(f *testing.F) {
	f.Add([]byte("2026-11-22T12:00:00.000000000Z stdout F text"))
	f.Add([]byte("2026-11-22T12:00:00.000000000Z stderr P "))
	f.Fuzz(func(t *testing.T, line []byte) {
		p, ok := parsePiece(line)
		if !ok || bytes.IndexByte(line, '\n') >= 0 {
			return
		}
		again, ok := parsePiece(bytes.TrimSuffix(appendPiece(nil, p), []byte("\n")))
		if !ok || !bytes.Equal(again.text, p.text) || again.stream != p.stream || again.full != p.full {
			t.Errorf("%q does not survive: %+v", line, again)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	s := NewStore(b.TempDir())
	pr, pw := io.Pipe()
	if err := s.Attach("t", nil, stdout(pr)); err != nil {
		b.Fatal(err)
	}
	chunk := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 100))
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := pw.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	pw.Close()
	s.Close()
}
