package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

func globalSpec(name string) *pb.ServiceSpec {
	s := webSpec(name, "nginx")
	s.Mode = &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	return s
}

func TestCreateService(t *testing.T) {
	m := newMachine(t).must(createSecret("s1", "key"), createConfig("c1", "conf"))
	m.refused(fault.Invalid, createService("", webSpec("web", "nginx")))
	m.refused(fault.Invalid, createService("web", nil))
	m.refused(fault.Invalid, createService("web", webSpec("", "nginx")))
	m.refused(fault.Invalid, createService("web", &pb.ServiceSpec{Name: "web", Mode: webSpec("", "").Mode}))
	m.refused(fault.Invalid, createService("web", &pb.ServiceSpec{Name: "web", Task: &pb.TaskSpec{}}))
	m.refused(fault.NotFound, createService("web", withSecret(webSpec("web", "nginx"), "s9")))
	m.refused(fault.NotFound, createService("web", withConfig(webSpec("web", "nginx"), "c9")))
	spec := withConfig(withSecret(webSpec("web", "nginx"), "s1"), "c1")
	m.must(createService("web", spec))
	equal(t, "service", m.View().Service("web"), &pb.Service{
		Id: "web", Meta: &pb.Meta{Version: m.index, CreatedAt: at(m.index), UpdatedAt: at(m.index)}, Spec: spec,
		SpecVersion: 1, Versions: []*pb.TaskSpecVersion{{Version: 1, Spec: spec.Task, CreatedAt: at(m.index)}},
		History: []*pb.ServiceVersion{{Number: 1, Spec: spec, CreatedAt: at(m.index)}},
	})
	m.refused(fault.Exists, createService("web", webSpec("other", "nginx")))
	m.refused(fault.Exists, createService("other", webSpec("web", "nginx")))
	m.must(removeService("web"))
	m.refused(fault.Exists, createService("other", webSpec("web", "nginx")))
	m.must(deleteService("web")).must(createService("other", webSpec("web", "nginx")))
}

func TestUpdateService(t *testing.T) {
	m := newMachine(t).must(createService("web", webSpec("web", "v1")), createService("gone", webSpec("gone", "v1")), removeService("gone"))
	created := m.index
	m.refused(fault.NotFound, updateService("none", 0, webSpec("none", "v1")))
	m.refused(fault.State, updateService("gone", 0, webSpec("gone", "v2")))
	m.refused(fault.Invalid, updateService("web", 0, nil))
	m.refused(fault.Invalid, updateService("web", 0, webSpec("renamed", "v1")))
	m.refused(fault.Invalid, updateService("web", 0, globalSpec("web")))
	m.refused(fault.NotFound, updateService("web", 0, withSecret(webSpec("web", "v1"), "s9")))
	m.refused(fault.Stale, updateService("web", created+100, webSpec("web", "v2")))
	m.must(updateStatus("web", &pb.UpdateStatus{State: pb.UpdateState_UPDATE_STATE_PAUSED, ToVersion: 1}))

	scaled := webSpec("web", "v1")
	scaled.GetReplicated().Replicas = 9
	m.must(updateService("web", created, scaled))
	s := m.View().Service("web")
	if s.SpecVersion != 1 || len(s.Versions) != 1 || s.Meta.Version != m.index || s.UpdateStatus == nil {
		t.Errorf("scaling made version %d of %d, meta %v, update %v", s.SpecVersion, len(s.Versions), s.Meta, s.UpdateStatus)
	}
	if s.Spec.GetReplicated().Replicas != 9 {
		t.Error("it was not scaled")
	}
	m.must(updateService("web", m.index, webSpec("web", "v2")))
	s = m.View().Service("web")
	if s.SpecVersion != 2 || s.UpdateStatus != nil {
		t.Errorf("a new task spec made version %d, update status %v", s.SpecVersion, s.UpdateStatus)
	}
	equal(t, "old spec", store.TaskSpec(s, 1), webSpec("web", "v1").Task)
	equal(t, "new spec", store.TaskSpec(s, 2), webSpec("web", "v2").Task)
	if store.TaskSpec(s, 3) != nil || store.TaskSpec(nil, 1) != nil {
		t.Error("there is a spec of no version")
	}
}

func TestOldVersionsAreKeptWhileTasksUseThem(t *testing.T) {
	m := newMachine(t).must(readyWorker("n1")...).must(createService("web", webSpec("web", "v1")))
	m.must(createTasks(task("old", "web", 1), task("ended", "web", 2)))
	for v := 2; v <= 15; v++ {
		if v == 3 {
			ended := task("used2", "web", 3)
			ended.SpecVersion = 2
			m.must(createTasks(ended), assign("n1", "used2"), reportState("n1", "used2", pb.TaskState_TASK_STATE_FAILED))
		}
		m.must(updateService("web", 0, webSpec("web", fmt.Sprint("v", v))))
	}
	versions := func() (all []uint64) {
		for _, v := range m.View().Service("web").Versions {
			all = append(all, v.Version)
		}
		return all
	}
	if got, want := versions(), []uint64{1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; !slices.Equal(got, want) {
		t.Errorf("versions %v, want %v", got, want)
	}
	m.must(desire(pb.TaskState_TASK_STATE_SHUTDOWN, "old", "ended"))
	m.must(updateService("web", 0, webSpec("web", "v16")))
	if got, want := versions(), []uint64{7, 8, 9, 10, 11, 12, 13, 14, 15, 16}; !slices.Equal(got, want) {
		t.Errorf("versions %v, want %v", got, want)
	}
}

func TestServiceLifeEnds(t *testing.T) {
	m := newMachine(t).must(createService("web", webSpec("web", "v1")), createTasks(task("t1", "web", 1)))
	m.refused(fault.NotFound, removeService("none"))
	m.refused(fault.NotFound, deleteService("none"))
	m.refused(fault.State, deleteService("web"))
	m.must(removeService("web"))
	marked := m.View().Service("web")
	if !marked.Removing || marked.Meta.Version != m.index {
		t.Errorf("removing %v at version %d", marked.Removing, marked.Meta.Version)
	}
	if m.must(removeService("web")); m.View().Service("web") != marked {
		t.Error("removing it twice is a change")
	}
	m.refused(fault.InUse, deleteService("web"))
	m.must(desire(pb.TaskState_TASK_STATE_REMOVE, "t1"), deleteTasks("t1"), deleteService("web"))
	if m.View().Service("web") != nil || m.View().ServiceByName("web") != nil {
		t.Error("it is still there")
	}
}

func TestUpdateStatus(t *testing.T) {
	m := newMachine(t).must(createService("web", webSpec("web", "v1")))
	version := m.index
	m.refused(fault.NotFound, updateStatus("none", &pb.UpdateStatus{}))
	m.refused(fault.Stale, updateStatus("web", &pb.UpdateStatus{ToVersion: 2}))
	status := &pb.UpdateStatus{State: pb.UpdateState_UPDATE_STATE_UPDATING, ToVersion: 1}
	m.must(updateStatus("web", status))
	s := m.View().Service("web")
	equal(t, "status", s.UpdateStatus, status)
	if s.Meta.Version != version {
		t.Error("progress changed the version of the spec")
	}
	if m.must(updateStatus("web", proto.CloneOf(status))); m.View().Service("web") != s {
		t.Error("saying the same twice is a change")
	}
	if m.must(updateStatus("web", nil)); m.View().Service("web").UpdateStatus != nil {
		t.Error("it cannot be cleared")
	}
}

func TestSecretsAndConfigs(t *testing.T) {
	type verbs struct {
		create func(id, name string) *pb.Command
		labels func(id string, ifVersion uint64, labels map[string]string) *pb.Command
		remove func(id string) *pb.Command
		use    func(*pb.ServiceSpec, string) *pb.ServiceSpec
		get    func(store.View, string) interface{ GetMeta() *pb.Meta }
	}
	for what, do := range map[string]verbs{
		"secret": {createSecret, secretLabels, removeSecret, withSecret, func(v store.View, id string) interface{ GetMeta() *pb.Meta } { return v.Secret(id) }},
		"config": {createConfig, configLabels, removeConfig, withConfig, func(v store.View, id string) interface{ GetMeta() *pb.Meta } { return v.Config(id) }},
	} {
		t.Run(what, func(t *testing.T) {
			m := newMachine(t)
			m.refused(fault.Invalid, do.create("", "key"))
			m.refused(fault.Invalid, do.create("x", ""))
			m.must(do.create("x", "key"))
			m.refused(fault.Exists, do.create("y", "key"))
			m.refused(fault.Exists, do.create("x", "other"))
			m.refused(fault.NotFound, do.labels("y", 0, nil))
			m.refused(fault.Stale, do.labels("x", 100, nil))
			version := do.get(m.View(), "x").GetMeta().Version
			m.must(do.labels("x", version, map[string]string{"a": "b"}))
			if got := do.get(m.View(), "x").GetMeta().Version; got != m.index {
				t.Errorf("version %d after an update at %d", got, m.index)
			}
			m.refused(fault.NotFound, do.remove("y"))

			m.must(createService("2", do.use(webSpec("zoo", "v1"), "x")), createService("1", do.use(webSpec("app", "v1"), "x")))
			m.refused(fault.InUse, do.remove("x"))
			if err := m.try(do.remove("x")); !strings.Contains(err.Error(), "app, zoo") {
				t.Errorf("the users are not named in order: %v", err)
			}
			m.must(removeService("2"), createTasks(task("t1", "1", 1)), updateService("1", 0, webSpec("app", "v2")))
			m.refused(fault.InUse, do.remove("x")) // t1 is of version 1
			m.must(desire(pb.TaskState_TASK_STATE_SHUTDOWN, "t1"), do.remove("x"))
			m.must(do.create("y", "key"))
		})
	}
	m := newMachine(t).must(createSecret("x", "key"), secretLabels("x", 0, map[string]string{"a": "b"}))
	equal(t, "spec", m.View().Secret("x").Spec, &pb.SecretSpec{Name: "key", Data: []byte("x"), Labels: map[string]string{"a": "b"}})
}
