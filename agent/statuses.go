package agent

import (
	"maps"
	"slices"
	"strings"
	"sync"

	pb "github.com/minid/minid/proto/minid/v1"
)

// maxReports bounds one batch, far below what a message may hold.
const maxReports = 1000

// statuses are the newest status of each task, on their way to the disk and to
// the managers. What is not acknowledged is sent again in the next session.
type statuses struct {
	mu      sync.Mutex
	newest  map[string]*pb.TaskStatus
	unsaved map[string]bool
	unsent  map[string]bool
	// flying are the batches sent and not yet acknowledged, by task.
	flying map[string]uint64
	number uint64
	// toSave and toSend hold a token while there is something to do.
	toSave, toSend chan struct{}
}

func newStatuses() *statuses {
	return &statuses{
		newest:  map[string]*pb.TaskStatus{},
		unsaved: map[string]bool{},
		unsent:  map[string]bool{},
		flying:  map[string]uint64{},
		toSave:  make(chan struct{}, 1),
		toSend:  make(chan struct{}, 1),
	}
}

// restore puts back what is on disk, without reporting it yet.
func (s *statuses) restore(id string, st *pb.TaskStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest[id] = st
	s.unsent[id] = true
}

// put takes a task's new status.
func (s *statuses) put(id string, st *pb.TaskStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest[id] = st
	s.unsaved[id], s.unsent[id] = true, true
	delete(s.flying, id)
	wake(s.toSave)
	wake(s.toSend)
}

// drop forgets a task.
func (s *statuses) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.newest, id)
	delete(s.unsent, id)
	delete(s.flying, id)
	s.unsaved[id] = true
	wake(s.toSave)
}

// get returns a task's newest status, nil for an unknown task.
func (s *statuses) get(id string) *pb.TaskStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest[id]
}

// takeUnsaved returns the tasks whose status has to go to disk.
func (s *statuses) takeUnsaved() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.unsaved))
	clear(s.unsaved)
	return ids
}

// keepUnsaved takes back what could not be written.
func (s *statuses) keepUnsaved(ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.unsaved[id] = true
	}
	wake(s.toSave)
}

// newSession marks what the last session did not acknowledge as unsent.
func (s *statuses) newSession() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.flying {
		s.unsent[id] = true
	}
	clear(s.flying)
	wake(s.toSend)
}

// compare marks a status as unsent when the managers believe an older state.
func (s *statuses) compare(id string, believed pb.TaskState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest[id].GetState() > believed {
		s.unsent[id] = true
		wake(s.toSend)
	}
}

// batch takes the next statuses to send, nil when there are none.
func (s *statuses) batch() *pb.StatusBatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsent) == 0 {
		return nil
	}
	s.number++
	b := &pb.StatusBatch{Number: s.number}
	for id := range s.unsent {
		b.Reports = append(b.Reports, &pb.TaskStatusReport{Id: id, Status: s.newest[id]})
		s.flying[id] = s.number
		delete(s.unsent, id)
		if len(b.Reports) == maxReports {
			break
		}
	}
	slices.SortFunc(b.Reports, func(x, y *pb.TaskStatusReport) int { return strings.Compare(x.GetId(), y.GetId()) })
	return b
}

// ack forgets what the managers have in their store. Batches are acknowledged
// one by one, in any order.
func (s *statuses) ack(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.flying, func(_ string, n uint64) bool { return n == number })
}

func (s *statuses) running() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.newest {
		if st.GetState() == pb.TaskState_TASK_STATE_RUNNING {
			n++
		}
	}
	return n
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
