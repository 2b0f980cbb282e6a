package scheduler

// ordered is what a queue can hold.
type ordered[T any] interface{ before(T) bool }

var (
	_ ordered[candidate] = candidate{}
	_ ordered[*branch]   = (*branch)(nil)
)

// queue is a binary heap whose first element precedes all others. Only the
// first one is ever changed or removed.
type queue[T ordered[T]] []T

// order makes a heap of elements in any order.
func (q queue[T]) order() {
	for i := len(q)/2 - 1; i >= 0; i-- {
		q.sink(i)
	}
}

// fix restores the order after the first element changed.
func (q queue[T]) fix() { q.sink(0) }

// push adds an element.
func (q *queue[T]) push(e T) {
	h := append(*q, e)
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h[i].before(h[up]) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
	*q = h
}

// pop removes the first element.
func (q *queue[T]) pop() {
	h, last := *q, len(*q)-1
	h[0] = h[last]
	var none T
	h[last] = none
	*q = h[:last]
	q.sink(0)
}

func (q queue[T]) sink(i int) {
	for {
		least := 2*i + 1
		if least >= len(q) {
			return
		}
		if right := least + 1; right < len(q) && q[right].before(q[least]) {
			least = right
		}
		if !q[least].before(q[i]) {
			return
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
}
