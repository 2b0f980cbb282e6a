package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Change is one setting in which two specs differ. Empty is not set.
type Change struct {
	// Path is the setting's name, such as task.container.image.
	Path     string
	Old, New string
}

// Diff compares two specs setting by setting, by the names they have in JSON.
// Lists of words and messages are compared entry by entry, in no order.
func Diff(old, next *pb.ServiceSpec) []Change {
	before, after := settings{}, settings{}
	before.message("", old.ProtoReflect())
	after.message("", next.ProtoReflect())
	paths := map[string]bool{}
	for path := range before {
		paths[path] = true
	}
	for path := range after {
		paths[path] = true
	}
	var changes []Change
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		gone, come := without(before[path], after[path]), without(after[path], before[path])
		for i := range max(len(gone), len(come)) {
			c := Change{Path: path}
			if i < len(gone) {
				c.Old = gone[i]
			}
			if i < len(come) {
				c.New = come[i]
			}
			changes = append(changes, c)
		}
	}
	return changes
}

// settings holds the values of each path, more than one for lists.
type settings map[string][]string

func (s settings) message(path string, m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := strings.TrimPrefix(path+"."+field.JSONName(), ".")
		switch {
		case field.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				s.value(name+"."+key.String(), field.MapValue(), v)
				return true
			})
		case field.IsList():
			for i := range v.List().Len() {
				s.entry(name, field, v.List().Get(i))
			}
		default:
			s.value(name, field, v)
		}
		return true
	})
}

func (s settings) value(path string, field protoreflect.FieldDescriptor, v protoreflect.Value) {
	if field.Message() == nil {
		s[path] = append(s[path], word(field, v))
		return
	}
	if d, ok := v.Message().Interface().(*durationpb.Duration); ok {
		s[path] = append(s[path], d.AsDuration().String())
		return
	}
	if v.Message().Descriptor().Fields().Len() == 0 {
		s[path] = append(s[path], "set")
		return
	}
	s.message(path, v.Message())
}

// entry of a list: a message is told in one piece, for its fields belong together.
func (s settings) entry(path string, field protoreflect.FieldDescriptor, v protoreflect.Value) {
	if field.Message() == nil {
		s[path] = append(s[path], word(field, v))
		return
	}
	inner := settings{}
	inner.message("", v.Message())
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(inner)) {
		parts = append(parts, key+"="+strings.Join(inner[key], "+"))
	}
	s[path] = append(s[path], strings.Join(parts, ","))
}

// without is what all has more often than some.
func without(all, some []string) (left []string) {
	rest := slices.Clone(some)
	for _, v := range all {
		if i := slices.Index(rest, v); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
			continue
		}
		left = append(left, v)
	}
	return left
}

// word writes a plain value; enums as users do, without their type's name.
func word(field protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch field.Kind() {
	case protoreflect.EnumKind:
		value := field.Enum().Values().ByNumber(v.Enum())
		if value == nil {
			return fmt.Sprint(v.Enum())
		}
		return enumWord(field.Enum(), value)
	case protoreflect.BytesKind:
		return fmt.Sprintf("(%d bytes)", len(v.Bytes()))
	}
	return fmt.Sprint(v.Interface())
}

// enumWord is ORDER_STOP_FIRST as stop-first: what all values of an enum begin
// with is cut off.
func enumWord(enum protoreflect.EnumDescriptor, value protoreflect.EnumValueDescriptor) string {
	prefix := strings.TrimSuffix(string(enum.Values().Get(0).Name()), "UNSPECIFIED")
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(string(value.Name()), prefix)), "_", "-")
}
