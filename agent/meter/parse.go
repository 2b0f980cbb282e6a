package meter

import (
	"math"
	"strconv"
	"strings"
)

// tick is the unit of /proc/stat in nanoseconds: USER_HZ is 100 on all platforms
// that Go runs on.
const tick = 1e9 / 100

// sector is the unit of /proc/diskstats in bytes, whatever the disk's own.
const sector = 512

// parseNumber reads a lone number; 0 for anything else.
func parseNumber(text string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return n
}

// parseKey finds the number of a key in lines of "KEY NUMBER".
func parseKey(text, key string) uint64 {
	for line := range strings.Lines(text) {
		if k, value, ok := strings.Cut(line, " "); ok && k == key {
			return parseNumber(value)
		}
	}
	return 0
}

// unlimited is where limits begin that are none: v1 has the largest number of
// whole pages for it.
const unlimited = math.MaxInt64 / 2

// parseLimit reads a limit in bytes; 0 is none.
func parseLimit(text string) uint64 {
	if n := parseNumber(text); n < unlimited {
		return n
	}
	return 0
}

// parseQuota reads "QUOTA PERIOD" in any one unit of time as billionths of a CPU;
// 0 is no limit, which is "max" in v2 and -1 in v1.
func parseQuota(text string) int64 {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return 0
	}
	quota, err := strconv.ParseInt(fields[0], 10, 64)
	period := parseNumber(fields[1])
	if err != nil || quota <= 0 || period == 0 {
		return 0
	}
	return int64(float64(quota) / float64(period) * 1e9)
}

// parseIO reads from /proc/PID/io the bytes that went from and to disks, or will.
func parseIO(text string) (read, written uint64) {
	return parseKey(text, "read_bytes:"), parseKey(text, "write_bytes:")
}

// parseIOStat sums up v2's lines of "MAJOR:MINOR rbytes=N wbytes=N …".
func parseIOStat(text string) (read, written uint64) {
	for field := range strings.FieldsSeq(text) {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "rbytes":
			read += parseNumber(value)
		case "wbytes":
			written += parseNumber(value)
		}
	}
	return read, written
}

// links goes through the lines of /proc/net/dev: the name, then the eight
// counters of what was received and the eight of what was sent, bytes first.
func links(text string, each func(name string, counters []string)) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		if counters := strings.Fields(rest); ok && len(counters) >= 9 {
			each(strings.TrimSpace(name), counters)
		}
	}
}

// parseNetDev sums up the bytes of some interfaces of /proc/net/dev.
func parseNetDev(text string, counts func(link string) bool) (received, sent uint64) {
	links(text, func(name string, counters []string) {
		if counts(name) {
			received += parseNumber(counters[0])
			sent += parseNumber(counters[8])
		}
	})
	return received, sent
}

// anyLink tells whether any interface of /proc/net/dev is of a kind.
func anyLink(text string, kind func(link string) bool) (found bool) {
	links(text, func(name string, _ []string) { found = found || kind(name) })
	return found
}

// parseStat reads from /proc/stat how long the CPUs were busy, in nanoseconds,
// and how many there are, in billionths. Waiting for I/O and what a hypervisor
// took away is not busy; guests are in the time of users already.
func parseStat(text string) (busy uint64, nanoCPUs int64) {
	const user, nice, system, irq, softirq = 1, 2, 3, 6, 7
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) <= softirq || !strings.HasPrefix(fields[0], "cpu"):
		case fields[0] == "cpu":
			for _, i := range []int{user, nice, system, irq, softirq} {
				busy += parseNumber(fields[i]) * tick
			}
		default:
			nanoCPUs += 1e9
		}
	}
	return busy, nanoCPUs
}

// parseMeminfo reads from /proc/meminfo the bytes that are neither free nor can
// be freed at once, and all bytes that there are.
func parseMeminfo(text string) (used, total uint64) {
	kib := func(key string) uint64 {
		_, after, _ := strings.Cut(text, key)
		number, _, _ := strings.Cut(strings.TrimSpace(after), " ")
		return parseNumber(number)
	}
	total = kib("MemTotal:") * 1024
	return less(total, kib("MemAvailable:")*1024), total
}

// parseThreads reads from /proc/loadavg how many threads there are.
func parseThreads(text string) uint64 {
	fields := strings.Fields(text)
	if len(fields) < 4 {
		return 0
	}
	_, all, _ := strings.Cut(fields[3], "/")
	return parseNumber(all)
}

// parseDiskstats sums up the bytes of some disks of /proc/diskstats.
func parseDiskstats(text string, counts func(disk string) bool) (read, written uint64) {
	const name, sectorsRead, sectorsWritten = 2, 5, 9
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > sectorsWritten && counts(fields[name]) {
			read += parseNumber(fields[sectorsRead]) * sector
			written += parseNumber(fields[sectorsWritten]) * sector
		}
	}
	return read, written
}
