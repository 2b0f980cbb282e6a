package placement

import (
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
	"github.com/minid/minid/store"
)

// maxRetries bounds how many groups that waited in vain a pass tries again, so
// that they do not keep new ones waiting.
const maxRetries = 1000

// book is the store as placement sees it: the scheduler's account of nodes and
// assigned tasks, and the waiting tasks in groups.
type book struct {
	set *scheduler.Set
	// view is the store as it is now. Networks are looked up in it: what matters
	// of them never changes, and they are there as long as a service needs them.
	view     func() store.View
	services map[string]*service
	waiting  map[string]*entry
	// dirty groups have tasks that no pass has looked at.
	dirty []*group
	// stuck groups have tasks that fit nowhere, in the order of trying again;
	// behind of them, at the head, were not tried since eased.
	stuck  []*group
	behind int
	eased  uint64
	// nextTelling is when stuck groups are to be told why, or the round through
	// them goes on.
	nextTelling time.Time
	round       round
}

// service is a service's present state, and by version what its tasks need
// and which of them wait.
type service struct {
	object *pb.Service
	needs  map[uint64]*scheduler.Requirements
	groups map[uint64]*group
}

// group is the waiting tasks of one version of a service.
type group struct {
	service *service
	version uint64
	entries []*entry
	// live is how many entries are waiting or in flight.
	live int
	// special groups have tasks that differ from each other: they name a node or
	// replace a task.
	special   bool
	dirty     bool
	stuck     bool
	notBefore time.Time
	telling
}

// entry is a waiting task. node is set while its assignment is in flight; gone
// when it waits no more.
type entry struct {
	task  *pb.Task
	group *group
	node  string
	gone  bool
}

func (e *entry) waits() bool { return !e.gone && e.node == "" }

func newBook(v store.View, now func() store.View) *book {
	b := &book{set: scheduler.NewSet(), view: now, services: map[string]*service{}, waiting: map[string]*entry{}}
	b.set.SetStrategy(v.Cluster().GetSpec().GetPlacementStrategy())
	for n := range v.Nodes() {
		b.set.PutNode(n)
	}
	for s := range v.Services() {
		b.putService(s)
	}
	for t := range v.Tasks() {
		b.putTask(nil, t)
	}
	return b
}

// observe takes over changes.
func (b *book) observe(changes []store.Change) {
	for _, c := range changes {
		switch c.Kind {
		case pb.Kind_KIND_CLUSTER:
			if cluster, ok := c.New.(*pb.Cluster); ok {
				b.set.SetStrategy(cluster.GetSpec().GetPlacementStrategy())
			}
		case pb.Kind_KIND_NODE:
			if n, ok := c.New.(*pb.Node); ok && n != nil {
				b.set.PutNode(n)
			} else {
				b.set.RemoveNode(c.ID)
			}
		case pb.Kind_KIND_SERVICE:
			if s, ok := c.New.(*pb.Service); ok && s != nil {
				b.putService(s)
			} else {
				b.removeService(c.ID)
			}
		case pb.Kind_KIND_TASK:
			old, _ := c.Old.(*pb.Task)
			if t, ok := c.New.(*pb.Task); ok && t != nil {
				b.putTask(old, t)
			} else {
				b.drop(c.ID)
				b.set.RemoveTask(c.ID)
			}
		}
	}
}

func (b *book) putService(o *pb.Service) {
	s := b.services[o.GetId()]
	if s == nil {
		s = &service{needs: map[uint64]*scheduler.Requirements{}, groups: map[uint64]*group{}}
		b.services[o.GetId()] = s
	}
	s.object = o
	for version := range s.needs {
		if store.TaskSpec(o, version) == nil {
			delete(s.needs, version)
		}
	}
	for _, g := range s.groups {
		if o.GetRemoving() {
			b.abandon(g)
		} else {
			b.touch(g)
		}
	}
}

func (b *book) removeService(id string) {
	if s := b.services[id]; s != nil {
		for _, g := range s.groups {
			b.abandon(g)
		}
		delete(b.services, id)
	}
	b.set.ForgetService(id)
}

// abandon forgets the waiting tasks of a group.
func (b *book) abandon(g *group) {
	for _, e := range g.entries {
		if !e.gone {
			b.drop(e.task.GetId())
		}
	}
}

func (b *book) putTask(old, t *pb.Task) {
	if s := b.services[t.GetServiceId()]; s != nil && !s.object.GetRemoving() && placeable(t) {
		b.wait(s, t)
		return
	}
	b.drop(t.GetId())
	b.set.PutTask(t, b.need(t))
	if scheduler.Failed(t) && (old == nil || !scheduler.Failed(old)) {
		b.set.AddFailure(t.GetServiceId(), t.GetSpecVersion(), t.GetNodeId(), t.GetStatus().GetAt().AsTime())
	}
}

// placeable tells whether a task is placement's to look at.
func placeable(t *pb.Task) bool {
	return t.GetStatus().GetState() == pb.TaskState_TASK_STATE_PENDING && t.GetDesiredState() <= pb.TaskState_TASK_STATE_RUNNING
}

func (b *book) need(t *pb.Task) *scheduler.Requirements {
	s := b.services[t.GetServiceId()]
	if s == nil {
		return scheduler.Compile(nil)
	}
	need := s.needs[t.GetSpecVersion()]
	if need == nil {
		need = scheduler.CompileIn(b.view(), store.TaskSpec(s.object, t.GetSpecVersion()))
		s.needs[t.GetSpecVersion()] = need
	}
	return need
}

// wait adds a task to its group, or takes over its change.
func (b *book) wait(s *service, t *pb.Task) {
	if e := b.waiting[t.GetId()]; e != nil {
		e.task = t
		return
	}
	g := s.groups[t.GetSpecVersion()]
	if g == nil {
		g = &group{service: s, version: t.GetSpecVersion()}
		s.groups[t.GetSpecVersion()] = g
	}
	e := &entry{task: t, group: g}
	b.waiting[t.GetId()] = e
	g.live++
	g.special = g.special || t.GetNodeId() != "" || t.GetReplaces() != ""
	g.put(e)
	b.touch(g)
}

// drop forgets a task that waits no more, or whose assignment came true.
func (b *book) drop(id string) {
	e := b.waiting[id]
	if e == nil {
		return
	}
	delete(b.waiting, id)
	e.gone = true
	g := e.group
	if g.live--; g.live == 0 {
		delete(g.service.groups, g.version)
		g.entries = nil
	}
}

// retry returns a task whose assignment did not come true to its group.
func (b *book) retry(e *entry, notBefore time.Time) {
	if e.group.service.object.GetRemoving() {
		b.drop(e.task.GetId())
		return
	}
	e.node = ""
	e.group.put(e)
	e.group.notBefore = notBefore
	b.touch(e.group)
}

func (b *book) touch(g *group) {
	if !g.dirty && g.live > 0 {
		g.dirty = true
		b.dirty = append(b.dirty, g)
	}
}

// takeDirty returns the groups to look at now; those that are to wait stay.
func (b *book) takeDirty(now time.Time) []*group {
	var due, later []*group
	for _, g := range b.dirty {
		if g.notBefore.After(now) {
			later = append(later, g)
			continue
		}
		g.dirty = false
		due = append(due, g)
	}
	b.dirty = later
	return due
}

// takeStuck returns groups to try again, if anything was eased since.
func (b *book) takeStuck() []*group {
	if eased := b.set.Eased(); eased != b.eased {
		b.eased, b.behind = eased, len(b.stuck)
	}
	n := min(b.behind, maxRetries)
	head := b.stuck[:n:n]
	b.stuck = b.stuck[n:]
	b.behind -= n
	b.round.at = max(0, b.round.at-n) // they come again, at the end
	var due []*group
	for _, g := range head {
		g.stuck = false
		if g.live > 0 && !g.dirty {
			due = append(due, g)
		}
	}
	return due
}

// tried notes the outcome of an attempt: what is left is stuck.
func (b *book) tried(g *group, now time.Time) {
	if len(g.entries) == 0 {
		g.telling = telling{}
		return
	}
	if newest := g.entries[len(g.entries)-1]; newest.task.GetStatus().GetMessage() == "" {
		g.fresh = true
	}
	switch {
	case g.due.IsZero():
		g.due, g.fresh = now, true
	case g.fresh:
		g.due = earlier(g.due, now.Add(tellEvery))
	}
	b.tellBy(g.due)
	if !g.stuck {
		g.stuck = true
		b.stuck = append(b.stuck, g)
	}
}

// untold has all stuck groups explained again, because explanations were lost.
func (b *book) untold(due time.Time) {
	for _, g := range b.stuck {
		g.fresh = true
		g.due = earlier(g.due, due)
	}
	b.tellBy(due)
}

// tellBy has stuck groups looked at by a time, also those that the present
// round has passed already.
func (b *book) tellBy(at time.Time) {
	b.nextTelling = earlier(b.nextTelling, at)
	b.round.next = earlier(b.round.next, at)
}

// rest is how long the loop may sleep if nothing changes, and whether it is to
// wake for telling stuck groups too.
func (b *book) rest(now time.Time, tells bool) time.Duration {
	wake := now.Add(time.Hour)
	for _, g := range b.dirty {
		if g.notBefore.Before(wake) {
			wake = g.notBefore
		}
	}
	if b.behind > 0 || b.set.Eased() != b.eased && len(b.stuck) > 0 {
		wake = earlier(wake, now.Add(quiet))
	}
	if tells && len(b.stuck) > 0 {
		wake = earlier(wake, b.nextTelling)
	}
	return max(0, wake.Sub(now))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// put adds an entry to those that a pass looks at.
func (g *group) put(e *entry) { g.entries = append(g.entries, e) }

// take removes and returns the entries that still wait.
func (g *group) take() []*entry {
	entries := g.entries
	g.entries = nil
	live := entries[:0]
	for _, e := range entries {
		if e.waits() {
			live = append(live, e)
		}
	}
	return live
}

// groupOf is a group in the scheduler's terms, without its tasks.
func (b *book) groupOf(g *group) scheduler.Group {
	o := g.service.object
	sg := scheduler.Group{
		Service:   o.GetId(),
		Name:      o.GetSpec().GetName(),
		Version:   g.version,
		StopFirst: scheduler.StopFirst(o),
		Need:      g.service.needs[g.version],
	}
	if sg.Need == nil {
		sg.Need = scheduler.CompileIn(b.view(), store.TaskSpec(o, g.version))
		g.service.needs[g.version] = sg.Need
	}
	return sg
}

func waiting(e *entry) scheduler.Waiting {
	return scheduler.Waiting{ID: e.task.GetId(), Node: e.task.GetNodeId(), Replaces: e.task.GetReplaces()}
}
