package store

import (
	"slices"
	"strings"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Secrets and configs: files that services refer to by id.

func (tx *txn) createSecret(c *pb.CreateSecret) error {
	name := c.GetSpec().GetName()
	switch {
	case c.GetId() == "" || name == "":
		return incomplete("create", "secret")
	case tx.secretsByName.Get(name) != nil || tx.secrets.Get(c.Id) != nil:
		return nameTaken("secret", name)
	}
	tx.putSecret(&pb.Secret{Id: c.Id, Meta: tx.created(), Spec: c.Spec})
	return nil
}

func (tx *txn) updateSecretLabels(c *pb.UpdateSecretLabels) error {
	old := tx.secrets.Get(c.GetId())
	if old == nil {
		return missing("update", "secret", c.GetId())
	}
	if err := current("secret", old.GetSpec().GetName(), old.Meta, c.IfVersion); err != nil {
		return err
	}
	n := shallow(old)
	n.Meta, n.Spec = tx.updated(old.Meta), shallow(old.Spec)
	n.Spec.Labels = c.Labels
	tx.putSecret(n)
	return nil
}

func (tx *txn) removeSecret(c *pb.RemoveSecret) error {
	old := tx.secrets.Get(c.GetId())
	if old == nil {
		return missing("remove", "secret", c.GetId())
	}
	if err := tx.unused("secret", old.GetSpec().GetName(), old.Id, secretsOf); err != nil {
		return err
	}
	tx.deleteSecret(old)
	return nil
}

func (tx *txn) createConfig(c *pb.CreateConfig) error {
	name := c.GetSpec().GetName()
	switch {
	case c.GetId() == "" || name == "":
		return incomplete("create", "config")
	case tx.configsByName.Get(name) != nil || tx.configs.Get(c.Id) != nil:
		return nameTaken("config", name)
	}
	tx.putConfig(&pb.Config{Id: c.Id, Meta: tx.created(), Spec: c.Spec})
	return nil
}

func (tx *txn) updateConfigLabels(c *pb.UpdateConfigLabels) error {
	old := tx.configs.Get(c.GetId())
	if old == nil {
		return missing("update", "config", c.GetId())
	}
	if err := current("config", old.GetSpec().GetName(), old.Meta, c.IfVersion); err != nil {
		return err
	}
	n := shallow(old)
	n.Meta, n.Spec = tx.updated(old.Meta), shallow(old.Spec)
	n.Spec.Labels = c.Labels
	tx.putConfig(n)
	return nil
}

func (tx *txn) removeConfig(c *pb.RemoveConfig) error {
	old := tx.configs.Get(c.GetId())
	if old == nil {
		return missing("remove", "config", c.GetId())
	}
	if err := tx.unused("config", old.GetSpec().GetName(), old.Id, configsOf); err != nil {
		return err
	}
	tx.deleteConfig(old)
	return nil
}

func nameTaken(what, name string) error {
	return fault.New(fault.Exists, "create %s %s: the name is taken", what, name).
		WithTry("minictl %s inspect %s, or another name", what, name)
}

func secretsOf(s *pb.TaskSpec) []*pb.FileReference { return s.GetContainer().GetSecrets() }

func configsOf(s *pb.TaskSpec) []*pb.FileReference { return s.GetContainer().GetConfigs() }

// filesExist refuses a task spec that refers to a secret or config that is not there.
func (tx *txn) filesExist(verb string, spec *pb.TaskSpec) error {
	for _, r := range secretsOf(spec) {
		if tx.secrets.Get(r.GetId()) == nil {
			return fault.New(fault.NotFound, "%s: there is no secret %s (id %s)", verb, r.GetName(), r.GetId()).
				WithTry("minictl secret create %s FILE", r.GetName())
		}
	}
	for _, r := range configsOf(spec) {
		if tx.configs.Get(r.GetId()) == nil {
			return fault.New(fault.NotFound, "%s: there is no config %s (id %s)", verb, r.GetName(), r.GetId()).
				WithTry("minictl config create %s FILE", r.GetName())
		}
	}
	return nil
}

// unused refuses to remove a file that a service, unless it is going away
// itself, or a task of an older version of it needs. It names the services.
func (tx *txn) unused(what, name, id string, files func(*pb.TaskSpec) []*pb.FileReference) error {
	refers := func(spec *pb.TaskSpec) bool {
		return slices.ContainsFunc(files(spec), func(r *pb.FileReference) bool { return r.GetId() == id })
	}
	var users []string
	for s := range tx.services.All() {
		if !s.Removing && (refers(s.GetSpec().GetTask()) || tx.olderRefers(s, refers)) {
			users = append(users, s.GetSpec().GetName())
		}
	}
	if len(users) == 0 {
		return nil
	}
	slices.Sort(users)
	return fault.New(fault.InUse, "remove %s %s: it is used by service %s", what, name, strings.Join(users, ", ")).
		WithTry("minictl service update --%s-rm %s %s", what, name, users[0])
}

// olderRefers says whether a version that a task still runs refers to it. The
// tasks are looked at only if some version does.
func (tx *txn) olderRefers(s *pb.Service, refers func(*pb.TaskSpec) bool) bool {
	var used map[uint64]bool
	for _, v := range s.Versions {
		if !refers(v.GetSpec()) {
			continue
		}
		if used == nil {
			used = tx.usedVersions(s)
		}
		if used[v.Version] {
			return true
		}
	}
	return false
}
