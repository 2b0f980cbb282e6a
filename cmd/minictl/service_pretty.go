package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/spec"
	pb "github.com/minid/minid/proto/minid/v1"
)

// prettyService prints a service for people.
func prettyService(w io.Writer, s *pb.Service, now time.Time) {
	p := prettyPrinter{w}
	sp := s.GetSpec()
	p.line(0, "ID", s.Id)
	p.line(0, "Name", sp.GetName())
	p.line(0, "Version", fmt.Sprint(s.GetMeta().GetVersion()))
	p.labels(0, sp.GetLabels())
	p.line(0, "Service Mode", title(spec.ModeName(sp)))
	if r := sp.GetReplicated(); r != nil {
		p.line(1, "Replicas", fmt.Sprint(r.Replicas))
	}
	prettyJob(p, s, now)
	if u := s.GetUpdateStatus(); u.GetState() != pb.UpdateState_UPDATE_STATE_UNSPECIFIED {
		p.line(0, "UpdateStatus", "")
		p.line(1, "State", enumName(u.State.String(), "UPDATE_STATE_"))
		p.field(1, "Started", timeText(u.StartedAt))
		p.field(1, "Completed", timeText(u.CompletedAt))
		p.field(1, "Message", u.Message)
	}
	prettyRebalance(p, s.GetRebalance(), now)
	prettyPlacement(p, sp.GetTask().GetPlacement())
	prettyRollout(p, "Update", sp.GetUpdate())
	prettyRollout(p, "Rollback", sp.GetRollback())
	prettyRestart(p, sp.GetTask().GetRestart())
	prettyContainer(p, sp.GetTask().GetContainer())
	prettyResources(p, sp.GetTask().GetResources())
	prettyLog(p, sp.GetTask().GetLog())
	prettyEndpoint(p, s)
}

// prettyEndpoint prints how a service is reached.
func prettyEndpoint(p prettyPrinter, s *pb.Service) {
	names := map[string]string{}
	if networks := s.GetSpec().GetTask().GetNetworks(); len(networks) > 0 {
		p.line(0, "Networks", joinComma(namesOf(networks, attachmentText)))
		for _, n := range networks {
			names[n.NetworkId] = n.NetworkName
		}
	}
	p.line(0, "Endpoint Mode", cmp.Or(enumName(s.GetSpec().GetEndpointMode().String(), "ENDPOINT_MODE_"), "vip"))
	for _, vip := range s.GetEndpoint().GetVips() {
		p.line(1, "VIP", fmt.Sprintf("%s on %s", joinComma(vip.Addresses), cmp.Or(names[vip.NetworkId], vip.NetworkId)))
	}
	p.field(1, "Problem", s.GetEndpoint().GetProblem())
	if ports := servicePorts(s); len(ports) > 0 {
		p.line(0, "Ports", "")
		for _, port := range ports {
			p.line(1, "Port", fmt.Sprintf("%s (%s)", portSpan{first: port}, portDetails(port)))
		}
	}
}

func attachmentName(n *pb.NetworkAttachment) string { return cmp.Or(n.NetworkName, n.NetworkId) }

// attachmentText is a network and the service's other names on it.
func attachmentText(n *pb.NetworkAttachment) string {
	if len(n.Aliases) == 0 {
		return attachmentName(n)
	}
	return fmt.Sprintf("%s (%s)", attachmentName(n), joinComma(n.Aliases))
}

func prettyPlacement(p prettyPrinter, s *pb.Placement) {
	if len(s.GetConstraints())+len(s.GetSpread()) == 0 && s.GetMaxReplicasPerNode() == 0 {
		return
	}
	p.line(0, "Placement", "")
	p.field(1, "Constraints", joinComma(s.Constraints))
	p.field(1, "Spread over", joinComma(s.Spread))
	if s.MaxReplicasPerNode > 0 {
		p.line(1, "Max Replicas Per Node", fmt.Sprint(s.MaxReplicasPerNode))
	}
}

func prettyRollout(p prettyPrinter, kind string, u *pb.UpdateConfig) {
	if u == nil {
		return
	}
	p.line(0, kind+"Config", "")
	p.line(1, "Parallelism", fmt.Sprint(u.Parallelism))
	p.field(1, "Delay", durationText(u.Delay))
	p.field(1, "On failure", enumName(u.FailureAction.String(), "FAILURE_ACTION_"))
	p.field(1, "Monitoring Period", durationText(u.Monitor))
	p.line(1, "Max failure ratio", fmt.Sprint(u.MaxFailureRatio))
	p.field(1, "Deadline", durationText(u.Deadline))
	p.field(1, kind+" order", enumName(u.Order.String(), "ORDER_"))
}

func prettyRestart(p prettyPrinter, r *pb.RestartPolicy) {
	if r == nil {
		return
	}
	p.line(0, "RestartPolicy", "")
	p.field(1, "Condition", enumName(r.Condition.String(), "CONDITION_"))
	p.field(1, "Delay", durationText(r.Delay))
	p.field(1, "Max delay", durationText(r.MaxDelay))
	if r.MaxAttempts > 0 {
		p.line(1, "Max attempts", fmt.Sprint(r.MaxAttempts))
	}
	p.field(1, "Window", durationText(r.Window))
}

func prettyContainer(p prettyPrinter, c *pb.ContainerSpec) {
	p.line(0, "ContainerSpec", "")
	p.line(1, "Image", print.Image(c.GetImage(), true))
	p.field(1, "Entrypoint", strings.Join(c.GetEntrypoint(), " "))
	p.field(1, "Args", strings.Join(c.GetArgs(), " "))
	p.field(1, "Env", strings.Join(c.GetEnv(), " "))
	p.field(1, "Dir", c.GetWorkdir())
	p.field(1, "User", c.GetUser())
	p.field(1, "Hostname", c.GetHostname())
	p.field(1, "StopSignal", c.GetStopSignal())
	p.field(1, "StopGracePeriod", durationText(c.GetStopGracePeriod()))
	for _, m := range c.GetMounts() {
		p.line(1, "Mount", mountText(m))
	}
	prettySettings(p, c)
	p.field(1, "DNS Servers", joinComma(c.GetDns().GetServers()))
	p.field(1, "DNS Search", joinComma(c.GetDns().GetSearch()))
	p.field(1, "DNS Options", joinComma(c.GetDns().GetOptions()))
	prettyFiles(p, "Secret", c.GetSecrets())
	prettyFiles(p, "Config", c.GetConfigs())
}

func prettyFiles(p prettyPrinter, key string, refs []*pb.FileReference) {
	for _, r := range refs {
		p.line(1, key, fmt.Sprintf("%s -> %s (mode %04o, owner %s:%s)", r.Name, r.Target, r.Mode, r.Uid, r.Gid))
	}
}

func prettyResources(p prettyPrinter, r *pb.ResourceRequirements) {
	if r == nil {
		return
	}
	p.line(0, "Resources", "")
	amount := func(key string, n int64, text func(int64) string) {
		if n > 0 {
			p.line(1, key, text(n))
		}
	}
	size := func(n int64) string { return units.BytesSize(float64(n)) }
	amount("Reserved CPU", r.ReserveNanoCpus, cpuText)
	amount("Reserved Memory", r.ReserveMemoryBytes, size)
	amount("Limit CPU", r.LimitNanoCpus, cpuText)
	amount("Limit Memory", r.LimitMemoryBytes, size)
	amount("Limit Pids", r.LimitPids, func(n int64) string { return fmt.Sprint(n) })
	p.field(1, "Generic", requestText(r.Generic))
	prettySwap(p, r)
}
