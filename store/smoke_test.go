package store

import "testing"

func TestNewIsEmpty(t *testing.T) {
	v := New().View()
	if v.Index() != 0 || v.Cluster() != nil || v.Node("x") != nil {
		t.Error("a new state is not empty")
	}
}
