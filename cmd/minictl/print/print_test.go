package print

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

var images = []*pb.Image{{Name: "a", Digest: "1234567890abcdef", SizeBytes: 7}, {Name: "bb\x1b[31m\n", Digest: "x"}}

var list = List[*pb.Image]{
	ID:     (*pb.Image).GetDigest,
	Object: func(i *pb.Image) proto.Message { return i },
	Columns: []Column[*pb.Image]{
		{Field: "Name", Header: "NAME", Value: func(i *pb.Image, _ bool) string { return i.Name }},
		{Field: "Digest", Header: "DIGEST", Value: func(i *pb.Image, whole bool) string { return ID(i.Digest, whole) }},
		{Field: "Kind", Value: func(*pb.Image, bool) string { return "image" }},
		{Field: "Extra", Header: "EXTRA", Wide: true, Value: func(*pb.Image, bool) string { return "more" }},
	},
}

func TestWrite(t *testing.T) {
	for _, test := range []struct {
		format  string
		quiet   bool
		whole   bool
		headers bool
		want    string
	}{
		{"", false, false, true, "NAME       DIGEST\na          1234567890ab\nbb [31m    x\n"},
		{"table", false, true, false, "a          1234567890abcdef\nbb [31m    x\n"},
		{"wide", false, false, true, "NAME       DIGEST         EXTRA\na          1234567890ab   more\nbb [31m    x              more\n"},
		{"", true, false, true, "1234567890abcdef\nx\n"},
		{"json", false, false, true, `{"name":"a","digest":"1234567890abcdef","sizeBytes":"7"}` + "\n" + `{"name":"bb\u001b[31m\n","digest":"x"}` + "\n"},
		{"yaml", false, false, true, "name: a\ndigest: 1234567890abcdef\nsizeBytes: \"7\"\n---\nname: \"bb\\e[31m\\n\"\ndigest: x\n"},
		{"{{.Kind}} {{upper .Digest}}", false, false, true, "image 1234567890AB\nimage X\n"},
		{`table {{.Digest}}\t{{.Kind}}`, false, false, true, "DIGEST         KIND\n1234567890ab   image\nx              image\n"},
	} {
		f, err := ParseFormat(test.format)
		if err != nil {
			t.Fatal(err)
		}
		f.Quiet, f.NoTrunc = test.quiet, test.whole
		var out strings.Builder
		if err := list.Write(&out, f, images, test.headers); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, out.String()); diff != "" {
			t.Errorf("format %q (-want +got):\n%s", test.format, diff)
		}
	}
}

func TestWidth(t *testing.T) {
	for width, want := range map[int]string{
		0:  "NAME       DIGEST         EXTRA\na          1234567890ab   more\nbb [31m    x              more\n",
		31: "NAME       DIGEST         EXTRA\na          1234567890ab   more\nbb [31m    x              more\n",
		30: "NAME       DIGEST\na          1234567890ab\nbb [31m    x\n",
		23: "NAME       DIGEST\na          1234567890ab\nbb [31m    x\n",
		22: "NAME\na\nbb [31m \n",
		1:  "NAME\na\nbb [31m \n",
	} {
		var out strings.Builder
		if err := list.Write(&out, Format{Kind: Wide, Width: width}, images, true); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("width %d (-want +got):\n%s", width, diff)
		}
	}
}

func TestInspect(t *testing.T) {
	items := []Inspected{{images[0], images[0]}}
	for format, want := range map[string]string{
		"":                                 "[\n    {\n        \"name\": \"a\",\n        \"digest\": \"1234567890abcdef\",\n        \"sizeBytes\": \"7\"\n    }\n]\n",
		"yaml":                             "name: a\ndigest: 1234567890abcdef\nsizeBytes: \"7\"\n",
		"{{.Name}} {{truncate .Digest 4}}": "a 123…\n",
		"{{json .}}":                       `{"name":"a","digest":"1234567890abcdef","sizeBytes":"7"}` + "\n",
	} {
		f, err := ParseFormat(format)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := Inspect(&out, f, items); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("format %q (-want +got):\n%s", format, diff)
		}
	}
}

func TestBadFormats(t *testing.T) {
	for _, format := range []string{"xml", "{{.Nosuch}}", "{{", "{{nosuch .}}"} {
		f, err := ParseFormat(format)
		if err == nil {
			err = list.Write(new(strings.Builder), f, images, true)
		}
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("format %q: %v", format, err)
		}
	}
}

func TestImage(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0", 64)
	for in, want := range map[string][2]string{
		"docker.io/library/nginx:1" + digest: {"nginx:1", "nginx:1" + digest},
		"docker.io/library/nginx" + digest:   {"nginx" + digest, "nginx" + digest},
		"reg.test:5000/a/b:c":                {"reg.test:5000/a/b:c", "reg.test:5000/a/b:c"},
		"NOT AN IMAGE":                       {"NOT AN IMAGE", "NOT AN IMAGE"},
	} {
		if got := [2]string{Image(in, false), Image(in, true)}; got != want {
			t.Errorf("Image(%q) = %q", in, got)
		}
	}
}

func TestAgoNeverRunsBackwards(t *testing.T) {
	now := time.Unix(1000, 0)
	for at, want := range map[int64]string{1000: "Less than a second ago", 940: "About a minute ago", 2000: "Less than a second ago"} {
		if got := Ago(timestamppb.New(time.Unix(at, 0)), now); got != want {
			t.Errorf("Ago(%d) = %q", at, got)
		}
	}
	if Ago(nil, now) != "" {
		t.Error("no time is not empty")
	}
}
