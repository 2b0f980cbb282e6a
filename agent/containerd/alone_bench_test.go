package containerd

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
)

// BenchmarkContainerdAlone is what BenchmarkStart cannot be faster than: the same
// image started by containerd and runc with nothing around, no network, no log, no
// limits, no mounts.
func BenchmarkContainerdAlone(b *testing.B) {
	const count = 100
	for _, at := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("count=%d/at=%d", count, at), func(b *testing.B) {
			r := open(b)
			api, err := client.New(r.daemon.Address())
			if err != nil {
				b.Fatal(err)
			}
			defer api.Close()
			ctx := namespaces.WithNamespace(b.Context(), Namespace)
			image, err := api.GetImage(ctx, sampleRef)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				started := make([]bareTask, count)
				var g errgroup.Group
				g.SetLimit(at)
				for i := range started {
					g.Go(func() (err error) {
						started[i], err = startBare(ctx, api, image, fmt.Sprint("bare-", i))
						return err
					})
				}
				err := g.Wait()
				b.StopTimer()
				for _, t := range started {
					err = errors.Join(err, t.end(ctx))
				}
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

type bareTask struct {
	container client.Container
	task      client.Task
}

func startBare(ctx context.Context, api *client.Client, image client.Image, id string) (t bareTask, err error) {
	t.container, err = api.NewContainer(ctx, id, client.WithImage(image), client.WithNewSnapshot(id, image),
		client.WithRuntime(runtimeName, nil), client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("/bin/sample", "sleep"),
			oci.WithHostNamespace(specs.NetworkNamespace), seccomp.WithDefaultProfile()))
	if err != nil {
		return t, err
	}
	if t.task, err = t.container.NewTask(ctx, cio.NullIO); err != nil {
		return t, err
	}
	return t, t.task.Start(ctx)
}

// end removes what was started.
func (t bareTask) end(ctx context.Context) error {
	if t.task != nil {
		exited, err := t.task.Wait(ctx)
		if err != nil {
			return err
		}
		if err := t.task.Kill(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		<-exited
		if _, err := t.task.Delete(ctx); err != nil {
			return err
		}
	}
	if t.container == nil {
		return nil
	}
	return t.container.Delete(ctx, client.WithSnapshotCleanup)
}
