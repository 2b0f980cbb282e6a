// Package cron tells when a schedule's times are: it reads cron expressions
// and finds the next time after a given one. It is pure: the time is a value.
//
// An expression has five fields as in crontab(5) (minute, hour, day of month,
// month, day of week; Sunday is 0 or 7), or is one of @hourly, @daily,
// @midnight, @weekly, @monthly, @yearly and @annually. A time matches when all
// fields do; when both the day of month and the day of week are restricted,
// one of the two is enough.
//
// # When clocks change
//
// An expression that names hours ("30 2 * * *") means what a clock on the
// wall shows. A time that the clock leaves out runs at the moment after the
// gap, once however many times are in it. A time that the clock shows twice
// runs when it is shown first.
//
// An expression that leaves the hour open ("*/5 * * * *") goes on through the
// change as if there were none: what lies in the gap is left out, and the hour
// that comes twice is an hour like all others.
package cron

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	// Managers need not have the database of time zones on disk.
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
)

// maxLength of an expression, in bytes; more than any list of minutes needs.
const maxLength = 500

// Schedule is an expression that was read, in its time zone. The zero value
// has no times.
type Schedule struct {
	// spec finds the next matching reading of a clock on the wall; readings
	// are times in UTC with the numbers that the clock shows.
	spec *cron.SpecSchedule
	zone *time.Location
	// everyHour says that the hour is left open.
	everyHour bool
}

// Parse reads an expression and the name of a time zone in the IANA database
// ("Europe/Berlin"); none is UTC. An error says what to change; expressions
// without any time ("0 0 30 2 *") are errors too.
func Parse(expr, timezone string) (Schedule, error) {
	zone, err := loadZone(timezone)
	if err != nil {
		return Schedule{}, err
	}
	spec, err := parse(strings.TrimSpace(expr))
	if err != nil {
		return Schedule{}, fmt.Errorf("cron expression %q: %w", expr, err)
	}
	s := Schedule{spec: spec, zone: zone, everyHour: spec.Hour&allHours == allHours}
	if s.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Schedule{}, fmt.Errorf("cron expression %q: there is no such time", expr)
	}
	return s, nil
}

// allHours has a bit for each hour of the day.
const allHours = 1<<24 - 1

// loadZone reads a time zone. "Local" would mean another zone on every manager.
func loadZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("time zone %q: not in the IANA database, which has names like Europe/Berlin", name)
	}
	return zone, nil
}

// fields are an expression's, in their order.
var fields = []struct {
	name, bounds string
	option       cron.ParseOption
}{
	{"minute", "0-59", cron.Minute},
	{"hour", "0-23", cron.Hour},
	{"day of month", "1-31", cron.Dom},
	{"month", "1-12 or jan-dec", cron.Month},
	{"day of week", "0-7 or sun-sat", cron.Dow},
}

// nicknames are the expressions that have no fields. The library has "@every"
// besides, which is about a process's start and thus no schedule here.
var nicknames = []string{"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}

func parse(expr string) (*cron.SpecSchedule, error) {
	if len(expr) > maxLength {
		return nil, fmt.Errorf("has %d bytes, and %d are the most", len(expr), maxLength)
	}
	if strings.HasPrefix(expr, "@") {
		if !slices.Contains(nicknames, expr) {
			return nil, fmt.Errorf("is none of %s", strings.Join(nicknames, ", "))
		}
		return read(cron.NewParser(cron.Descriptor), expr)
	}
	words := strings.Fields(expr)
	if len(words) != len(fields) {
		return nil, fmt.Errorf("has %d fields, not 5: minute, hour, day of month, month, day of week", len(words))
	}
	words[4] = sundays(words[4])
	for i, field := range fields {
		if !readable(words[i], field.option) {
			return nil, fmt.Errorf("the %s is %q, not %s, a list or range of them, or */step", field.name, words[i], field.bounds)
		}
	}
	return read(cron.NewParser(cron.Minute|cron.Hour|cron.Dom|cron.Month|cron.Dow), strings.Join(words, " "))
}

// read has the library parse an expression as readings of a clock, which know
// no zone. The library takes a zone in front of the fields too; none gets here.
func read(parser cron.Parser, expr string) (*cron.SpecSchedule, error) {
	schedule, err := parser.Parse(expr)
	if err != nil {
		return nil, err
	}
	spec, ok := schedule.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("is no list of times")
	}
	spec.Location = time.UTC
	return spec, nil
}

// readable tells whether a word is a field of a kind and every part of its
// list names something; the library passes over empty parts.
func readable(word string, option cron.ParseOption) bool {
	if strings.Contains(word, "=") || slices.Contains(strings.Split(word, ","), "") {
		return false
	}
	_, err := cron.NewParser(option).Parse(word)
	return err == nil
}

// sundays writes a day of week 7 as 0, which is all that the library knows.
// What is no list of days stays as it is, to be complained about.
func sundays(word string) string {
	parts := strings.Split(word, ",")
	for i, part := range parts {
		parts[i] = sunday(part)
	}
	return strings.Join(parts, ",")
}

func sunday(part string) string {
	if part == "7" {
		return "0"
	}
	days, stepWord, stepped := strings.Cut(part, "/")
	first, found := strings.CutSuffix(days, "-7")
	from, err := strconv.Atoi(first)
	if !found || err != nil || from < 0 || from > 7 {
		return part
	}
	step := 1
	if stepped {
		if step, err = strconv.Atoi(stepWord); err != nil || step < 1 {
			return part
		}
	}
	var listed []string
	for day := from; day <= 7; day += min(step, 8) {
		listed = append(listed, strconv.Itoa(day%7))
	}
	return strings.Join(listed, ",")
}
