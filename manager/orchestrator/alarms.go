package orchestrator

import (
	"container/heap"
	"time"
)

// alarm asks to look at something at a time. One that is no longer waited for
// is found out when it goes off.
type alarm[K any] struct {
	at  time.Time
	key K
}

// alarms is a heap, soonest first.
type alarms[K any] []alarm[K]

func (a alarms[K]) Len() int           { return len(a) }
func (a alarms[K]) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a alarms[K]) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }

// Push is for container/heap.
func (a *alarms[K]) Push(x any) { *a = append(*a, x.(alarm[K])) }

// Pop is for container/heap.
func (a *alarms[K]) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

func (a *alarms[K]) set(key K, at time.Time) { heap.Push(a, alarm[K]{at, key}) }

// due takes out what is not after now.
func (a *alarms[K]) due(now time.Time) (gone []alarm[K]) {
	for len(*a) > 0 && !(*a)[0].at.After(now) {
		gone = append(gone, heap.Pop(a).(alarm[K]))
	}
	return gone
}

// drop takes out the soonest ones while they are of no use.
func (a *alarms[K]) drop(useless func(alarm[K]) bool) {
	for len(*a) > 0 && useless((*a)[0]) {
		heap.Pop(a)
	}
}

// next is when the next one goes off, zero if there is none.
func (a alarms[K]) next() time.Time {
	if len(a) == 0 {
		return time.Time{}
	}
	return a[0].at
}
