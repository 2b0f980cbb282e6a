package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"

	pb "github.com/minid/minid/proto/minid/v1"
)

// prettySettings prints what a container asks of the kernel, as it is set.
func prettySettings(p prettyPrinter, c *pb.ContainerSpec) {
	flag := func(key string, on bool) {
		if on {
			p.line(1, key, "true")
		}
	}
	flag("Init", c.GetInit())
	flag("TTY", c.GetTty())
	flag("Read-only Root", c.GetReadOnly())
	p.field(1, "Groups", joinComma(c.GetGroups()))
	p.field(1, "Added Caps", joinComma(c.GetCapAdd()))
	p.field(1, "Dropped Caps", joinComma(c.GetCapDrop()))
	p.field(1, "Security Options", joinComma(c.GetSecurityOpts()))
	if c.GetOomScoreAdj() != 0 {
		p.line(1, "OOM Score", fmt.Sprint(c.GetOomScoreAdj()))
	}
	if size := c.GetShmSizeBytes(); size > 0 {
		p.line(1, "Shm Size", units.BytesSize(float64(size)))
	}
	for _, name := range slices.Sorted(maps.Keys(c.GetSysctls())) {
		p.line(1, "Sysctl", name+"="+c.GetSysctls()[name])
	}
	for _, u := range c.GetUlimits() {
		p.line(1, "Ulimit", fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	for _, d := range c.GetDevices() {
		p.line(1, "Device", d)
	}
	for _, h := range c.GetHosts() {
		p.line(1, "Host", h)
	}
}

// mountText is a mount with what is not as by default.
func mountText(m *pb.Mount) string {
	source := m.Source
	if m.VolumeSubpath != "" {
		source += "/" + m.VolumeSubpath
	}
	var more []string
	add := func(is bool, text string) {
		if is {
			more = append(more, text)
		}
	}
	add(m.ReadOnly, "read-only")
	add(m.BindPropagation != "", m.BindPropagation)
	add(m.BindRecursion != 0, "recursion "+enumName(m.BindRecursion.String(), "BIND_RECURSION_"))
	add(m.BindCreateSource, "made where missing")
	add(m.VolumeNoCopy, "not filled")
	add(m.TmpfsSizeBytes > 0, "size "+units.BytesSize(float64(m.TmpfsSizeBytes)))
	add(m.TmpfsMode != 0, fmt.Sprintf("mode %04o", m.TmpfsMode))
	text := strings.Join(strings.Fields(fmt.Sprintf("%s %s -> %s", enumName(m.Type.String(), "TYPE_"), source, m.Target)), " ")
	if len(more) > 0 {
		text += " (" + joinComma(more) + ")"
	}
	return text
}

// prettySwap prints the settings of swap.
func prettySwap(p prettyPrinter, r *pb.ResourceRequirements) {
	switch n := r.GetMemorySwapBytes(); {
	case n > 0:
		p.line(1, "Limit Memory+Swap", units.BytesSize(float64(n)))
	case n < 0:
		p.line(1, "Limit Memory+Swap", "no limit of swap")
	}
	if r != nil && r.MemorySwappiness != nil {
		p.line(1, "Swappiness", fmt.Sprint(*r.MemorySwappiness))
	}
}

// prettyLog prints how a task's log is rotated, if that is set.
func prettyLog(p prettyPrinter, l *pb.LogConfig) {
	if l.GetMaxSizeBytes() == 0 && l.GetMaxFiles() == 0 {
		return
	}
	size := "10MiB"
	if l.MaxSizeBytes > 0 {
		size = units.BytesSize(float64(l.MaxSizeBytes))
	}
	p.line(0, "Log", fmt.Sprintf("%d files of %s", cmp.Or(l.MaxFiles, 3), size))
}
