package controlapi

import (
	"cmp"
	"path"
	"strings"
	"time"

	"github.com/distribution/reference"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// The defaults of service specs, as in Swarm.
const (
	defaultRestartDelay = 5 * time.Second
	defaultStopGrace    = 10 * time.Second
	defaultMonitor      = 5 * time.Second
	defaultFileMode     = 0o444
	secretsDir          = "/run/secrets"
)

// normalService copies a spec and makes its defaults explicit, so that those
// who read it need not know them. Doing so twice changes nothing more.
func normalService(spec *pb.ServiceSpec) (*pb.ServiceSpec, error) {
	if spec.GetTask().GetContainer() == nil {
		return nil, fault.New(fault.Invalid, "image: none is given").WithTry("minictl service create IMAGE")
	}
	spec = proto.CloneOf(spec)
	if spec.Mode == nil {
		spec.Mode = &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}}
	}
	condition := pb.RestartPolicy_CONDITION_ANY
	if store.IsJob(spec) {
		condition = pb.RestartPolicy_CONDITION_ON_FAILURE
		normalJob(spec)
	} else {
		spec.Update, spec.Rollback = normalRollout(spec.Update), normalRollout(spec.Rollback)
	}
	spec.Task.Restart = normalRestart(spec.Task.Restart, condition)
	if spec.EndpointMode == pb.EndpointMode_ENDPOINT_MODE_UNSPECIFIED {
		spec.EndpointMode = pb.EndpointMode_ENDPOINT_MODE_VIP
	}
	for _, p := range spec.Task.Ports {
		normalPort(p)
	}
	return spec, normalContainer(spec.Task.Container)
}

// normalRestart fills in the condition that a mode has when none is given.
func normalRestart(r *pb.RestartPolicy, condition pb.RestartPolicy_Condition) *pb.RestartPolicy {
	if r == nil {
		r = &pb.RestartPolicy{}
	}
	if r.Condition == pb.RestartPolicy_CONDITION_UNSPECIFIED {
		r.Condition = condition
	}
	if r.Delay == nil {
		r.Delay = durationpb.New(defaultRestartDelay)
	}
	return r
}

func normalContainer(c *pb.ContainerSpec) error {
	image, err := normalImage(c.Image)
	if err != nil {
		return err
	}
	c.Image = image
	if c.StopGracePeriod == nil {
		c.StopGracePeriod = durationpb.New(defaultStopGrace)
	}
	for i, name := range c.CapAdd {
		c.CapAdd[i] = normalCapability(name)
	}
	for i, name := range c.CapDrop {
		c.CapDrop[i] = normalCapability(name)
	}
	for i, device := range c.Devices {
		c.Devices[i] = normalDevice(device)
	}
	return nil
}

// normalImage spells an image reference out: registry, path, tag or digest.
func normalImage(image string) (string, error) {
	if image == "" {
		return "", fault.New(fault.Invalid, "image: none is given").WithTry("minictl service create IMAGE")
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fault.New(fault.Invalid, "image %q: %w", image, err).WithTry("REGISTRY/NAME:TAG, such as docker.io/library/nginx:1.29")
	}
	return reference.TagNameOnly(named).String(), nil
}

// normalCapability writes net_admin as CAP_NET_ADMIN; ALL stays.
func normalCapability(name string) string {
	name = strings.ToUpper(name)
	if name == "ALL" || strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

// resolveFiles finds the secrets and configs that a container refers to, by
// id or name, and fills in both, the target, owner and mode.
func resolveFiles(view store.View, c *pb.ContainerSpec) error {
	for _, ref := range c.Secrets {
		secret, err := findSecret(view, cmp.Or(ref.GetId(), ref.GetName()))
		if err != nil {
			return missingFile(err, "secret", cmp.Or(ref.GetName(), ref.GetId()))
		}
		ref.Id, ref.Name = secret.Id, secret.GetSpec().GetName()
		ref.Target = cmp.Or(ref.Target, ref.Name)
		normalFile(ref)
	}
	for _, ref := range c.Configs {
		config, err := findConfig(view, cmp.Or(ref.GetId(), ref.GetName()))
		if err != nil {
			return missingFile(err, "config", cmp.Or(ref.GetName(), ref.GetId()))
		}
		ref.Id, ref.Name = config.Id, config.GetSpec().GetName()
		ref.Target = cmp.Or(ref.Target, "/"+ref.Name)
		normalFile(ref)
	}
	return nil
}

func normalFile(ref *pb.FileReference) {
	ref.Uid, ref.Gid = cmp.Or(ref.Uid, "0"), cmp.Or(ref.Gid, "0")
	if ref.Mode == 0 {
		ref.Mode = defaultFileMode
	}
}

// missingFile tells how to make what a service lacks.
func missingFile(err error, what, name string) error {
	if !fault.Is(err, fault.NotFound) {
		return err
	}
	return fault.New(fault.NotFound, "%s %s: there is none with this id or name", what, name).
		WithTry("minictl %s create %s FILE", what, name)
}

// filePath is where a secret or config appears in the container.
func filePath(dir string, ref *pb.FileReference) string {
	if path.IsAbs(ref.Target) {
		return path.Clean(ref.Target)
	}
	return path.Join(dir, ref.Target)
}
