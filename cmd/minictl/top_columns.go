package main

import (
	"fmt"
	"time"

	"github.com/docker/go-units"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/usage"
)

// topColumns are those of tasks, or of nodes.
func topColumns(nodes bool) print.List[usage.Row] {
	type column = print.Column[usage.Row]
	id := func(r usage.Row) string { return r.TaskID }
	first := []column{
		{Field: "Name", Header: "NAME", Value: func(r usage.Row, whole bool) string {
			if r.Slot == 0 {
				r.NodeID = print.ID(r.NodeID, whole)
			}
			return r.Name()
		}},
		{Field: "Node", Header: "NODE", Value: func(r usage.Row, _ bool) string { return r.NodeName }},
	}
	if nodes {
		id = func(r usage.Row) string { return r.NodeID }
		first = []column{
			{Field: "Name", Header: "NODE", Value: func(r usage.Row, _ bool) string { return r.Name() }},
			{Field: "Tasks", Header: "TASKS", Value: func(r usage.Row, _ bool) string { return fmt.Sprint(r.Tasks) }},
		}
	}
	rated := func(of func(r usage.Row) string) func(usage.Row, bool) string {
		return func(r usage.Row, _ bool) string {
			if !r.Rated {
				return "-"
			}
			return of(r)
		}
	}
	return print.List[usage.Row]{
		ID:     id,
		Object: topObject,
		Columns: append(first,
			column{Field: "CPUPerc", Header: "CPU %", Value: rated(func(r usage.Row) string { return percent(r.Rate.CPUs) })},
			column{Field: "CPULimitPerc", Header: "OF LIMIT", Value: rated(func(r usage.Row) string {
				if r.CPULimit() == 0 {
					return ""
				}
				return percent(r.Rate.CPUs / r.CPULimit())
			})},
			column{Field: "MemUsage", Header: "MEMORY", Value: func(r usage.Row, _ bool) string { return memoryText(r) }},
			column{Field: "MemPerc", Header: "MEM %", Value: func(r usage.Row, _ bool) string { return percent(r.MemoryShare()) }},
			column{Field: "NetIn", Header: "NET IN", Value: rated(func(r usage.Row) string { return speed(r.Rate.Received) })},
			column{Field: "NetOut", Header: "NET OUT", Value: rated(func(r usage.Row) string { return speed(r.Rate.Sent) })},
			column{Field: "BlockRead", Header: "READ", Value: rated(func(r usage.Row) string { return speed(r.Rate.Read) })},
			column{Field: "BlockWrite", Header: "WRITTEN", Value: rated(func(r usage.Row) string { return speed(r.Rate.Written) })},
			column{Field: "PIDs", Header: "PIDS", Value: func(r usage.Row, _ bool) string { return fmt.Sprint(r.Usage.Pids) }},
			column{Field: "NetIO", Header: "NET TOTAL", Wide: true, Value: func(r usage.Row, _ bool) string {
				return bytesText(r.Usage.ReceivedBytes) + " / " + bytesText(r.Usage.SentBytes)
			}},
			column{Field: "BlockIO", Header: "DISK TOTAL", Wide: true, Value: func(r usage.Row, _ bool) string {
				return bytesText(r.Usage.ReadBytes) + " / " + bytesText(r.Usage.WrittenBytes)
			}},
			column{Field: "ID", Header: "ID", Wide: true, Value: func(r usage.Row, whole bool) string { return print.ID(id(r), whole) }},
		),
	}
}

// memoryText is what is used and, if there is a limit, of how much.
func memoryText(r usage.Row) string {
	text := units.BytesSize(float64(r.Usage.MemoryBytes))
	if r.Usage.MemoryLimitBytes > 0 {
		text += " / " + units.BytesSize(float64(r.Usage.MemoryLimitBytes))
	}
	return text
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }

func speed(bytes float64) string { return units.HumanSizeWithPrecision(bytes, 3) + "/s" }

func bytesText(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// summary is a line of what all nodes use together.
func (t *top) summary() string {
	sum, nodes := t.board.Total(), ""
	if lost := len(t.board.Troubles()); lost > 0 {
		nodes = fmt.Sprintf("%d of ", sum.Nodes)
		sum.Nodes += lost
	}
	return fmt.Sprintf("%s%s, %s: CPU %.2f of %s, memory %s of %s, network %s in %s out, disks %s read %s written",
		nodes, plural(sum.Nodes, "node"), plural(sum.Tasks, "task"), sum.Rate.CPUs, cpuText(int64(sum.CPUs*1e9)),
		units.BytesSize(float64(sum.MemoryUsed)), units.BytesSize(float64(sum.MemoryBytes)),
		speed(sum.Rate.Received), speed(sum.Rate.Sent), speed(sum.Rate.Read), speed(sum.Rate.Written))
}

// topObject is a row for programs. What is not known, such as a limit that there
// is not, is left out.
func topObject(r usage.Row) proto.Message {
	fields := map[string]*structpb.Value{}
	text := func(key, value string) {
		if value != "" {
			fields[key] = structpb.NewStringValue(value)
		}
	}
	number := func(key string, value float64, known bool) {
		if known {
			fields[key] = structpb.NewNumberValue(value)
		}
	}
	text("name", r.Name())
	text("node", r.NodeName)
	text("nodeId", r.NodeID)
	text("taskId", r.TaskID)
	text("service", r.Service)
	text("error", r.Trouble)
	if r.Trouble != "" {
		return &structpb.Struct{Fields: fields}
	}
	text("at", r.At.UTC().Format(time.RFC3339Nano))
	number("slot", float64(r.Slot), r.Slot > 0)
	number("tasks", float64(r.Tasks), r.TaskID == "")
	number("cpus", r.Rate.CPUs, r.Rated)
	number("cpuLimit", r.CPULimit(), r.CPULimit() > 0)
	number("memoryBytes", float64(r.Usage.MemoryBytes), true)
	number("memoryLimitBytes", float64(r.Usage.MemoryLimitBytes), r.Usage.MemoryLimitBytes > 0)
	number("pids", float64(r.Usage.Pids), true)
	for key, value := range map[string]struct{ rate, total float64 }{
		"received": {r.Rate.Received, float64(r.Usage.ReceivedBytes)}, "sent": {r.Rate.Sent, float64(r.Usage.SentBytes)},
		"read": {r.Rate.Read, float64(r.Usage.ReadBytes)}, "written": {r.Rate.Written, float64(r.Usage.WrittenBytes)},
	} {
		number(key+"BytesPerSecond", value.rate, r.Rated)
		number(key+"Bytes", value.total, true)
	}
	return &structpb.Struct{Fields: fields}
}
