package cron

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// layout is how the tests below write times.
const layout = "2006-01-02 15:04 -0700"

func at(t testing.TB, text string) time.Time {
	t.Helper()
	got, err := time.Parse(layout, text)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mustParse(t testing.TB, expr, zone string) Schedule {
	t.Helper()
	s, err := Parse(expr, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTimesAreFound(t *testing.T) {
	const from = "2026-11-22 19:04 +0000" // a Sunday
	for _, c := range []struct {
		expr, zone string
		want       []string
	}{
		{"* * * * *", "", []string{"2026-11-22 19:05 +0000", "2026-11-22 19:06 +0000"}},
		{"*/5 * * * *", "UTC", []string{"2026-11-22 19:05 +0000", "2026-11-22 19:10 +0000"}},
		{"4 19 * * *", "", []string{"2026-11-23 19:04 +0000"}},
		{"@hourly", "Europe/Berlin", []string{"2026-11-22 21:00 +0100", "2026-11-22 22:00 +0100"}},
		{"@hourly", "Asia/Kolkata", []string{"2026-11-23 01:00 +0530"}},
		{"@daily", "Asia/Kolkata", []string{"2026-11-24 00:00 +0530"}},
		{"0 9 * * mon-fri", "", []string{"2026-11-23 09:00 +0000"}},
		{"0 9 * * 7", "", []string{"2026-11-29 09:00 +0000"}},
		{"0 9 * * 5-7", "", []string{"2026-11-27 09:00 +0000", "2026-11-28 09:00 +0000", "2026-11-29 09:00 +0000", "2026-12-04 09:00 +0000"}},
		{"0 9 * * 3-7/2,7", "", []string{"2026-11-25 09:00 +0000", "2026-11-27 09:00 +0000", "2026-11-29 09:00 +0000"}},
		// Either of two restricted kinds of days is enough.
		{"0 0 13 * fri", "", []string{"2026-11-27 00:00 +0000", "2026-12-04 00:00 +0000", "2026-12-11 00:00 +0000", "2026-12-13 00:00 +0000"}},
		{"0 0 29 2 *", "", []string{"2028-02-29 00:00 +0000", "2032-02-29 00:00 +0000"}},
		{"  1,31\t0 1 jan *  ", "", []string{"2027-01-01 00:01 +0000", "2027-01-01 00:31 +0000"}},
	} {
		s := mustParse(t, c.expr, c.zone)
		now := at(t, from)
		for _, want := range c.want {
			now = s.Next(now)
			if got := now.Format(layout); got != want {
				t.Errorf("%q in %q: next is %s, want %s", c.expr, c.zone, got, want)
			}
		}
	}
}

func TestLeapDaysEightYearsApart(t *testing.T) {
	s := mustParse(t, "0 0 29 2 *", "")
	got := s.Next(at(t, "2096-03-01 00:00 +0000"))
	if want := at(t, "2104-02-29 00:00 +0000"); !got.Equal(want) {
		t.Errorf("next is %v, want %v", got, want)
	}
}

func TestClocksThatChange(t *testing.T) {
	for _, c := range []struct {
		name, expr, zone, after string
		want                    []string
	}{
		{"a time that is left out runs after the gap",
			"30 2 * * *", "Europe/Berlin", "2026-03-28 12:00 +0100",
			[]string{"2026-03-29 03:00 +0200", "2026-03-30 02:30 +0200"}},
		{"many of them run once, and with one that is there",
			"0,20,40 2,3 * * *", "Europe/Berlin", "2026-03-29 01:00 +0100",
			[]string{"2026-03-29 03:00 +0200", "2026-03-29 03:20 +0200", "2026-03-29 03:40 +0200", "2026-03-30 02:00 +0200"}},
		{"a time shown twice runs when it is shown first",
			"30 2 * * *", "Europe/Berlin", "2026-10-24 12:00 +0200",
			[]string{"2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"}},
		{"also seen from between the two",
			"30 2 * * *", "Europe/Berlin", "2026-10-25 02:10 +0100",
			[]string{"2026-10-26 02:30 +0100"}},
		{"the hour after the one shown twice",
			"0 3 * * *", "Europe/Berlin", "2026-10-25 02:30 +0200",
			[]string{"2026-10-25 03:00 +0100"}},
		{"an open hour goes on over the gap",
			"*/30 * * * *", "Europe/Berlin", "2026-03-29 01:10 +0100",
			[]string{"2026-03-29 01:30 +0100", "2026-03-29 03:00 +0200", "2026-03-29 03:30 +0200"}},
		{"what an open hour has in the gap is left out",
			"30 * * * *", "Europe/Berlin", "2026-03-29 01:10 +0100",
			[]string{"2026-03-29 01:30 +0100", "2026-03-29 03:30 +0200"}},
		{"an open hour that comes twice runs twice",
			"*/30 * * * *", "Europe/Berlin", "2026-10-25 02:00 +0200",
			[]string{"2026-10-25 02:30 +0200", "2026-10-25 02:00 +0100", "2026-10-25 02:30 +0100", "2026-10-25 03:00 +0100"}},
		{"midnight is left out",
			"@daily", "America/Santiago", "2026-09-05 12:00 -0400",
			[]string{"2026-09-06 01:00 -0300", "2026-09-07 00:00 -0300"}},
		{"clocks that change by half an hour",
			"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00 +1030",
			[]string{"2026-10-04 02:30 +1100", "2026-10-05 02:15 +1100"}},
		{"an island that left a day out",
			"0 12 * * *", "Pacific/Apia", "2011-12-29 11:00 -1000",
			[]string{"2011-12-29 12:00 -1000", "2011-12-31 00:00 +1400", "2011-12-31 12:00 +1400"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, now := mustParse(t, c.expr, c.zone), at(t, c.after)
			for _, want := range c.want {
				now = s.Next(now)
				if got := now.Format(layout); got != want {
					t.Errorf("next is %s, want %s", got, want)
				}
			}
		})
	}
}

func TestWhatIsRefused(t *testing.T) {
	for _, c := range []struct{ expr, zone, want string }{
		{"", "", `has 0 fields, not 5`},
		{"* * * *", "", `has 4 fields, not 5`},
		{"0 * * * * *", "", `has 6 fields, not 5`},
		{"60 * * * *", "", `the minute is "60", not 0-59`},
		{"* 24 * * *", "", `the hour is "24", not 0-23`},
		{"* * 0 * *", "", `the day of month is "0"`},
		{"* * * 13 *", "", `the month is "13"`},
		{"* * * * 8", "", `the day of week is "8", not 0-7`},
		{"* * * * 8-7", "", `the day of week is "8-7"`},
		{"* * * * fri-", "", `the day of week is "fri-"`},
		{"*/0 * * * *", "", `the minute is "*/0"`},
		{"1,,2 * * * *", "", `the minute is "1,,2"`},
		{", * * * *", "", `the minute is ","`},
		{"-1 * * * *", "", `the minute is "-1"`},
		{"a * * * *", "", `the minute is "a"`},
		{"TZ=UTC * * * *", "", `the minute is "TZ=UTC"`},
		{"TZ=Europe/Berlin * * * * *", "", `has 6 fields`},
		{"@every 5m", "", `is none of @hourly`},
		{"@reboot", "", `is none of @hourly`},
		{"0 0 30 2 *", "", `there is no such time`},
		{strings.Repeat("1,", 300) + "1 * * * *", "", `has 609 bytes, and 500 are the most`},
		{"* * * * *", "Mars/Olympus", `time zone "Mars/Olympus": not in the IANA database`},
		{"* * * * *", "Local", `time zone "Local": not in the IANA database`},
		{"* * * * *", "../../etc/passwd", `not in the IANA database`},
	} {
		_, err := Parse(c.expr, c.zone)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q in %q: got %v, want %q", c.expr, c.zone, err, c.want)
		}
	}
}

func TestNoScheduleHasNoTimes(t *testing.T) {
	if got := (Schedule{}).Next(time.Unix(0, 0)); !got.IsZero() {
		t.Errorf("next is %v", got)
	}
}

// TestAgreesWithLookingAtEveryMinute compares with somebody who looks at the
// clock on the wall every minute for three days around a change.
func TestAgreesWithLookingAtEveryMinute(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu", "Antarctica/Troll"}
	minute := rapid.SampledFrom([]string{"0", "15", "*/7", "30,59", "*", "0-10"})
	hour := rapid.SampledFrom([]string{"*", "0", "1", "2", "3", "1-3", "*/2", "23", "0-23"})
	day := rapid.SampledFrom([]string{"*", "*/2", "1,25,29"})
	week := rapid.SampledFrom([]string{"*", "0", "sat,7", "*/3"})
	rapid.Check(t, func(rt *rapid.T) {
		expr := minute.Draw(rt, "minute") + " " + hour.Draw(rt, "hour") + " " + day.Draw(rt, "day") + " * " + week.Draw(rt, "week")
		s := mustParse(t, expr, rapid.SampledFrom(zones).Draw(rt, "zone"))
		somewhen := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, rapid.IntRange(0, 1500).Draw(rt, "day of change"))
		_, change := somewhen.In(s.zone).ZoneBounds()
		if change.IsZero() {
			change = somewhen
		}
		from := change.Add(-36 * time.Hour).Add(time.Duration(rapid.IntRange(0, 59).Draw(rt, "second")) * time.Second)
		want := look(s, from, from.Add(72*time.Hour))
		var got []string
		for now := s.Next(from); !now.IsZero() && !now.After(from.Add(72*time.Hour)); now = s.Next(now) {
			got = append(got, now.Format(layout))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			rt.Fatalf("%q in %v from %v:\ngot  %v\nwant %v", expr, s.zone, from, got, want)
		}
	})
}

func look(s Schedule, from, to time.Time) []string {
	var fired []string
	begin := from.Add(-48 * time.Hour).Truncate(time.Minute)
	seen := shown(begin.In(s.zone))
	for now := begin; !now.After(to); now = now.Add(time.Minute) {
		reading := shown(now.In(s.zone))
		due := s.everyHour && fits(s, reading)
		for !s.everyHour && seen.Before(reading) {
			seen = seen.Add(time.Minute)
			due = due || fits(s, seen)
		}
		if due && now.After(from) {
			fired = append(fired, now.In(s.zone).Format(layout))
		}
	}
	return fired
}

func fits(s Schedule, reading time.Time) bool {
	has := func(bits uint64, n int) bool { return bits>>n&1 == 1 }
	const star = 63
	dom, dow := has(s.spec.Dom, reading.Day()), has(s.spec.Dow, int(reading.Weekday()))
	day := dom || dow
	if has(s.spec.Dom, star) || has(s.spec.Dow, star) {
		day = dom && dow
	}
	return day && has(s.spec.Minute, reading.Minute()) && has(s.spec.Hour, reading.Hour()) && has(s.spec.Month, int(reading.Month()))
}

// FuzzParse checks that no expression makes the reader panic or hang, and that
// what it takes has times that go forward.
func FuzzParse(f *testing.F) {
	for _, expr := range []string{"* * * * *", "*/5 1-3 * jan 5-7/2", "@weekly", "@every 1s", "TZ=x", "0 0 29 2 *", "59/9223372036854775807 * * * *", "* * * * 0-7/9223372036854775807"} {
		f.Add(expr, "Europe/Berlin", int64(1774700000))
	}
	f.Fuzz(func(t *testing.T, expr, zone string, unix int64) {
		s, err := Parse(expr, zone)
		if err != nil {
			return
		}
		now := time.Unix(unix%(1<<33), 0)
		for range 5 {
			next := s.Next(now)
			if !next.After(now) {
				t.Fatalf("%q in %q: %v comes after %v", expr, zone, next, now)
			}
			now = next
		}
	})
}

func BenchmarkNext(b *testing.B) {
	s := mustParse(b, "30 2 * * *", "Europe/Berlin")
	now := at(b, "2026-03-28 12:00 +0100")
	for b.Loop() {
		s.Next(now)
	}
}
