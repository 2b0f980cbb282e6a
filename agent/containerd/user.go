package containerd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minid/minid/fault"
)

// identity is whom a process runs as.
type identity struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

func (i identity) oci() specs.User {
	return specs.User{UID: i.UID, GID: i.GID, AdditionalGids: i.Groups}
}

// userCache remembers who a name is in an image: asking costs a mount.
type userCache struct {
	mu    sync.Mutex
	known map[string]identity
}

// lookup finds a user of an image, whose files open reads when they are needed.
func (u *userCache) lookup(chain, user string, groups []string, open func() (fs.FS, func(), error)) (identity, error) {
	key := strings.Join(append([]string{chain, user}, groups...), "\x00")
	u.mu.Lock()
	defer u.mu.Unlock()
	if id, ok := u.known[key]; ok {
		return id, nil
	}
	files, done, err := open()
	if err != nil {
		return identity{}, err
	}
	defer done()
	id, err := findUser(files, user, groups)
	if err == nil {
		u.known[key] = id
	}
	return id, err
}

// findUser resolves USER[:GROUP] and additional groups, names or numbers, by
// the passwd and group files, of which none need exist.
func findUser(files fs.FS, user string, groups []string) (identity, error) {
	name, group, hasGroup := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	passwd, err := readTable(files, "etc/passwd")
	if err != nil {
		return identity{}, err
	}
	table, err := readTable(files, "etc/group")
	if err != nil {
		return identity{}, err
	}
	id := identity{Home: "/"}
	if row := findRow(passwd, name); len(row) >= 6 {
		id.UID, id.GID, name, id.Home = number(row[2]), number(row[3]), row[0], row[5]
	} else if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		id.UID = uint32(n)
	} else {
		return identity{}, fault.New(fault.Invalid, "user %q: the image has no such user", name)
	}
	if hasGroup {
		if id.GID, err = findGroup(table, group); err != nil {
			return identity{}, err
		}
	} else {
		id.Groups = memberOf(table, name)
	}
	for _, g := range groups {
		gid, err := findGroup(table, g)
		if err != nil {
			return identity{}, err
		}
		id.Groups = append(id.Groups, gid)
	}
	slices.Sort(id.Groups)
	id.Groups = slices.Compact(id.Groups)
	return id, nil
}

// findRow looks for a row by its name, or by its number in column 2.
func findRow(rows [][]string, name string) []string {
	for _, match := range []int{0, 2} {
		for _, row := range rows {
			if len(row) > match && row[match] == name {
				return row
			}
		}
	}
	return nil
}

func findGroup(rows [][]string, name string) (uint32, error) {
	if row := findRow(rows, name); len(row) >= 3 {
		return number(row[2]), nil
	}
	n, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		return 0, fault.New(fault.Invalid, "group %q: the image has no such group", name)
	}
	return uint32(n), nil
}

func memberOf(groups [][]string, user string) []uint32 {
	var out []uint32
	for _, row := range groups {
		if len(row) >= 4 && slices.Contains(strings.Split(row[3], ","), user) {
			out = append(out, number(row[2]))
		}
	}
	return out
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// readTable reads a colon-separated file; one that does not exist is empty.
func readTable(files fs.FS, name string) ([][]string, error) {
	f, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "read /%s of the image: %w", name, err)
	}
	defer f.Close()
	var rows [][]string
	lines := bufio.NewScanner(io.LimitReader(f, 4<<20))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line != "" && !strings.HasPrefix(line, "#") {
			rows = append(rows, strings.Split(line, ":"))
		}
	}
	return rows, nil
}

// userOf finds whom a task runs as.
func (r *Runtime) userOf(ctx context.Context, img *image, user string, groups []string) (identity, error) {
	if user == "" {
		user = img.Config.User
	}
	return r.users.lookup(img.ChainID, user, groups, func() (fs.FS, func(), error) {
		dir, done, err := r.mountImage(ctx, img)
		if err != nil {
			return nil, nil, err
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			done()
			return nil, nil, fault.New(fault.Internal, "open image %s: %w", img.Name, err)
		}
		return root.FS(), func() { _ = root.Close(); done() }, nil
	})
}
