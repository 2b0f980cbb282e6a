package testcluster

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minid/minid/client"
	pb "github.com/minid/minid/proto/minid/v1"
)

// A call that comes to a follower just after the leader died waits for the next
// leader instead of failing.
func TestCallsWaitForTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(t)
		defer c.Close()
		s := NewStory(c, 1, 3, 0)
		var leader, follower *Node
		for _, n := range c.Nodes {
			if s.leads(n) {
				leader = n
			} else {
				follower = n
			}
		}
		leader.Kill()
		died := time.Now()
		err := follower.call(func(api *client.Client) error {
			_, err := api.Control.CreateConfig(context.Background(), &pb.CreateConfigRequest{Spec: &pb.ConfigSpec{Name: "a", Data: []byte("1")}})
			return err
		})
		if err != nil {
			t.Fatalf("%v after the leader's death: %v", time.Since(died), err)
		}
		if took := time.Since(died); took > 2*time.Second {
			t.Errorf("a write took %v", took)
		}
	})
}
