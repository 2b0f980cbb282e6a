package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/minid/minid/proto/minid/v1"
)

// filled sets every field of a message to something.
func filled(m proto.Message) proto.Message {
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() {
			list := m.ProtoReflect().Mutable(f).List()
			list.Append(list.NewElement())
			continue
		}
		switch f.Kind() {
		case protoreflect.MessageKind:
			m.ProtoReflect().Mutable(f)
		case protoreflect.StringKind:
			m.ProtoReflect().Set(f, protoreflect.ValueOfString(string(f.Name())))
		case protoreflect.Uint64Kind:
			m.ProtoReflect().Set(f, protoreflect.ValueOfUint64(uint64(i)))
		case protoreflect.EnumKind:
			m.ProtoReflect().Set(f, protoreflect.ValueOfEnum(512))
		default:
			panic("filled does not know " + f.Kind().String())
		}
	}
	m.ProtoReflect().SetUnknown([]byte{0xca, 0x3e, 0x01, 0x07})
	return m
}

// A field added to the protocol must be added to the copy too.
func TestCopiesAreComplete(t *testing.T) {
	task := filled(&pb.Task{}).(*pb.Task)
	if diff := cmp.Diff(task, copyTask(task), protocmp.Transform()); diff != "" {
		t.Errorf("copyTask lost something:\n%s", diff)
	}
	if diff := cmp.Diff(task, shallow(task), protocmp.Transform()); diff != "" {
		t.Errorf("shallow lost something:\n%s", diff)
	}
	meta := filled(&pb.Meta{}).(*pb.Meta)
	tx := begin(newTables(), meta.Version, meta.UpdatedAt)
	if diff := cmp.Diff(meta, tx.updated(meta), protocmp.Transform()); diff != "" {
		t.Errorf("updated lost something:\n%s", diff)
	}
}
