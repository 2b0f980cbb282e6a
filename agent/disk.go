package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"
)

// disk is the local state: what a node needs to go on with its tasks when it
// starts and no manager is in reach. Secrets, registry credentials and the
// networks' shared keys are never on it.
type disk struct{ db *bbolt.DB }

// The buckets, each by id; withheld marks specs that had credentials.
var (
	bucketTasks    = []byte("tasks")
	bucketSpecs    = []byte("specs")
	bucketWithheld = []byte("withheld")
	bucketConfigs  = []byte("configs")
	bucketNetwork  = []byte("network") // by diskKey
	bucketStatuses = []byte("statuses")
	bucketManagers = []byte("managers")
)

// keyManagers and keyLeader are the keys in bucketManagers.
var (
	keyManagers = []byte("all")
	keyLeader   = []byte("leader")
)

// lockTimeout bounds the wait for another minid that has the file open.
const lockTimeout = 5 * time.Second

func openDisk(path string) (*disk, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open local state %s: another minid uses it", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open local state %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketTasks, bucketSpecs, bucketWithheld, bucketConfigs, bucketNetwork, bucketStatuses, bucketManagers} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare local state %s: %w", path, err), db.Close())
	}
	return &disk{db: db}, nil
}

func (d *disk) close() error { return d.db.Close() }

// saved is what an earlier life left on disk.
type saved struct {
	assignments assignments
	statuses    map[string]*pb.TaskStatus
	managers    []*pb.ManagerPeer
	leader      string
}

func (d *disk) load() (saved, error) {
	s := saved{assignments: newAssignments(), statuses: map[string]*pb.TaskStatus{}}
	err := d.db.View(func(tx *bbolt.Tx) error {
		var welcome pb.Welcome
		if err := proto.Unmarshal(tx.Bucket(bucketManagers).Get(keyManagers), &welcome); err != nil {
			return err
		}
		s.managers = welcome.GetManagers()
		s.leader = string(tx.Bucket(bucketManagers).Get(keyLeader))
		return errors.Join(
			each(tx, bucketTasks, func(id string, t *pb.AssignedTask) { s.assignments.tasks[id] = t }),
			each(tx, bucketSpecs, func(id string, v *pb.AssignedSpec) { s.assignments.specs[id] = v }),
			each(tx, bucketConfigs, func(id string, c *pb.Config) { s.assignments.configs[id] = c }),
			each(tx, bucketNetwork, func(_ string, item *pb.Assignment) { s.assignments.put(item) }),
			each(tx, bucketStatuses, func(id string, st *pb.TaskStatus) { s.statuses[id] = st }),
			tx.Bucket(bucketWithheld).ForEach(func(id, _ []byte) error {
				s.assignments.withheld[string(id)] = true
				return nil
			}),
		)
	})
	return s, err
}

// each decodes every message of a bucket.
func each[T any, M interface {
	*T
	proto.Message
}](tx *bbolt.Tx, bucket []byte, yield func(id string, m M)) error {
	return tx.Bucket(bucket).ForEach(func(id, data []byte) error {
		m := M(new(T))
		if err := proto.Unmarshal(data, m); err != nil {
			return fmt.Errorf("%s %s: %w", bucket, id, err)
		}
		yield(string(id), m)
		return nil
	})
}

// saveSet replaces the assignments but the network's, which saveNetwork does.
func (d *disk) saveSet(set *pb.AssignmentSet) error {
	return d.db.Update(func(tx *bbolt.Tx) error {
		if err := empty(tx, bucketTasks, bucketSpecs, bucketWithheld, bucketConfigs); err != nil {
			return err
		}
		return putAll(tx, set.GetItems())
	})
}

func empty(tx *bbolt.Tx, buckets ...[]byte) error {
	for _, name := range buckets {
		if err := tx.DeleteBucket(name); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
}

// saveNetwork replaces the network's items, in the order of their keys: there
// may be many, and so they fill one page after the other.
func (d *disk) saveNetwork(items map[itemKey]*pb.Assignment) error {
	keys := slices.SortedFunc(maps.Keys(items), func(x, y itemKey) int {
		return cmp.Or(cmp.Compare(x.kind, y.kind), strings.Compare(x.id, y.id))
	})
	return d.db.Update(func(tx *bbolt.Tx) error {
		if err := empty(tx, bucketNetwork); err != nil {
			return err
		}
		for _, key := range keys {
			if err := putNetwork(tx, key, items[key]); err != nil {
				return err
			}
		}
		return nil
	})
}

// diskKey is an itemKey as bytes, kinds together.
func diskKey(kind pb.ItemKind, id string) string { return fmt.Sprintf("%02d %s", kind, id) }

func putNetwork(tx *bbolt.Tx, key itemKey, item *pb.Assignment) error {
	if key.kind == pb.ItemKind_ITEM_KIND_KEYS {
		return nil
	}
	return put(tx, bucketNetwork, diskKey(key.kind, key.id), item)
}

// saveDiff changes the assignments.
func (d *disk) saveDiff(diff *pb.AssignmentDiff) error {
	return d.db.Update(func(tx *bbolt.Tx) error {
		for _, key := range diff.GetRemove() {
			if err := removeKey(tx, key); err != nil {
				return err
			}
		}
		for _, item := range diff.GetPut() {
			if key, ok := networkKey(item); ok {
				if err := putNetwork(tx, key, item); err != nil {
					return err
				}
			}
		}
		return putAll(tx, diff.GetPut())
	})
}

func putAll(tx *bbolt.Tx, items []*pb.Assignment) error {
	var errs []error
	for _, item := range items {
		switch {
		case item.GetTask() != nil:
			errs = append(errs, put(tx, bucketTasks, item.GetTask().GetId(), item.GetTask()))
		case item.GetSpec() != nil:
			errs = append(errs, putSpec(tx, item.GetSpec()))
		case item.GetConfig() != nil:
			errs = append(errs, put(tx, bucketConfigs, item.GetConfig().GetId(), item.GetConfig()))
		}
	}
	return errors.Join(errs...)
}

func putSpec(tx *bbolt.Tx, spec *pb.AssignedSpec) error {
	key := specKey(spec.GetServiceId(), spec.GetVersion())
	if len(spec.GetTask().GetContainer().GetPullAuth()) == 0 {
		return errors.Join(put(tx, bucketSpecs, key, spec), tx.Bucket(bucketWithheld).Delete([]byte(key)))
	}
	spec = proto.CloneOf(spec)
	spec.Task.Container.PullAuth = nil
	return errors.Join(put(tx, bucketSpecs, key, spec), tx.Bucket(bucketWithheld).Put([]byte(key), []byte{1}))
}

func removeKey(tx *bbolt.Tx, key *pb.AssignmentKey) error {
	id := []byte(key.GetId())
	switch key.GetKind() {
	case pb.ItemKind_ITEM_KIND_TASK:
		return tx.Bucket(bucketTasks).Delete(id)
	case pb.ItemKind_ITEM_KIND_SPEC:
		return errors.Join(tx.Bucket(bucketSpecs).Delete(id), tx.Bucket(bucketWithheld).Delete(id))
	case pb.ItemKind_ITEM_KIND_CONFIG:
		return tx.Bucket(bucketConfigs).Delete(id)
	}
	return tx.Bucket(bucketNetwork).Delete([]byte(diskKey(key.GetKind(), key.GetId())))
}

func put(tx *bbolt.Tx, bucket []byte, id string, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put([]byte(id), data)
}

// saveStatuses writes the newest statuses; nil ones are deleted. They are looked
// up while the file is locked, so that none is written after a newer one.
func (d *disk) saveStatuses(ids []string, newest func(id string) *pb.TaskStatus) error {
	return d.db.Update(func(tx *bbolt.Tx) error {
		for _, id := range ids {
			if err := putStatus(tx, id, newest(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// saveEnd writes one status; calls at the same time share one write.
func (d *disk) saveEnd(id string, st *pb.TaskStatus) error {
	return d.db.Batch(func(tx *bbolt.Tx) error { return putStatus(tx, id, st) })
}

func putStatus(tx *bbolt.Tx, id string, st *pb.TaskStatus) error {
	if st == nil {
		return tx.Bucket(bucketStatuses).Delete([]byte(id))
	}
	return put(tx, bucketStatuses, id, st)
}

// saveManagers keeps where managers are, and which one led last.
func (d *disk) saveManagers(managers []*pb.ManagerPeer, leader string) error {
	return d.db.Update(func(tx *bbolt.Tx) error {
		return errors.Join(
			put(tx, bucketManagers, string(keyManagers), &pb.Welcome{Managers: managers}),
			tx.Bucket(bucketManagers).Put(keyLeader, []byte(leader)),
		)
	})
}
