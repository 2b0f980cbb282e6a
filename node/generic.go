package node

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// genericKind is what kinds of generic resources may be called: environment
// variables are named after them.
var genericKind = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`)

// GenericList reads GenericResources. A kind may be given several times, with
// more ids each time. An entry without a kind has more ids for the one before:
// so a list is whole again that was taken apart at its commas.
func (c Config) GenericList() ([]*pb.GenericResource, error) {
	var list []*pb.GenericResource
	for i := 0; i < len(c.GenericResources); {
		entry := c.GenericResources[i]
		for i++; i < len(c.GenericResources) && !strings.Contains(c.GenericResources[i], "="); i++ {
			entry += "," + c.GenericResources[i]
		}
		one, err := parseGeneric(entry)
		if err != nil {
			return nil, fmt.Errorf("invalid --generic-resource %q: %w", entry, err)
		}
		at := slices.IndexFunc(list, func(have *pb.GenericResource) bool { return have.Kind == one.Kind })
		switch {
		case at < 0:
			list = append(list, one)
		case len(one.Ids) == 0 || len(list[at].Ids) == 0:
			return nil, fmt.Errorf("invalid --generic-resource %q: %s has a number already, or ids: give one of them", entry, one.Kind)
		default:
			list[at].Ids = append(list[at].Ids, one.Ids...)
			list[at].Count += one.Count
			if err := twice(list[at].Ids); err != nil {
				return nil, fmt.Errorf("invalid --generic-resource %q: %w", entry, err)
			}
		}
	}
	return list, nil
}

// parseGeneric reads KIND=N or KIND=ID,ID. A lone number is a number.
func parseGeneric(entry string) (*pb.GenericResource, error) {
	kind, value, ok := strings.Cut(entry, "=")
	if !ok || value == "" {
		return nil, fmt.Errorf("use KIND=N or KIND=ID,ID")
	}
	if !genericKind.MatchString(kind) {
		return nil, fmt.Errorf("a kind begins with a letter and has only letters, digits, '-' and '_'")
	}
	if n, err := strconv.ParseInt(value, 10, 32); err == nil {
		if n < 1 {
			return nil, fmt.Errorf("use a number from 1 on")
		}
		return &pb.GenericResource{Kind: kind, Count: n}, nil
	}
	ids := strings.Split(value, ",")
	for i, id := range ids {
		if ids[i] = strings.TrimSpace(id); ids[i] == "" {
			return nil, fmt.Errorf("an id is empty")
		}
	}
	return &pb.GenericResource{Kind: kind, Count: int64(len(ids)), Ids: ids}, twice(ids)
}

// twice refuses lists that name an id more than once.
func twice(ids []string) error {
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			return fmt.Errorf("the id %s is given twice", id)
		}
	}
	return nil
}
