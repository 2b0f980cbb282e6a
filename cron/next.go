package cron

import "time"

// Next returns the schedule's first time after a given one, in the schedule's
// zone; the zero time when there is none.
func (s Schedule) Next(after time.Time) time.Time {
	if s.spec == nil {
		return time.Time{}
	}
	if s.everyHour {
		return s.nextElapsed(after.In(s.zone))
	}
	return s.nextShown(after.In(s.zone))
}

// nextShown follows the clock on the wall: it goes from one matching reading
// to the next until one is shown first after the given time. Most often that
// is the next one; in the hour that comes twice all its readings are passed
// over.
func (s Schedule) nextShown(after time.Time) time.Time {
	for reading := s.nextReading(shown(after)); !reading.IsZero(); reading = s.nextReading(reading) {
		if at := firstShown(reading, s.zone); at.After(after) {
			return at
		}
	}
	return time.Time{}
}

// nextElapsed follows the time that passes: from one change of the clock to
// the next it reads the clock as the zone stands.
func (s Schedule) nextElapsed(after time.Time) time.Time {
	for {
		reading := s.nextReading(shown(after))
		if reading.IsZero() {
			return time.Time{}
		}
		at := after.Add(reading.Sub(shown(after)))
		_, change := after.ZoneBounds()
		if change.IsZero() || at.Before(change) {
			return at
		}
		after = change
		if s.matches(shown(change)) {
			return change
		}
	}
}

// nextReading returns the next matching reading. The library looks five years
// ahead, and a leap day may be eight away.
func (s Schedule) nextReading(after time.Time) time.Time {
	for range 3 {
		if reading := s.spec.Next(after); !reading.IsZero() {
			return reading
		}
		after = time.Date(after.Year()+5, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Second)
	}
	return time.Time{}
}

// matches tells whether a reading is one of the schedule's.
func (s Schedule) matches(reading time.Time) bool {
	return s.spec.Next(reading.Add(-time.Nanosecond)).Equal(reading)
}

// shown returns what a clock on the wall reads at a time.
func shown(at time.Time) time.Time {
	_, offset := at.Zone()
	return at.Add(time.Duration(offset) * time.Second).UTC()
}

// firstShown returns when a zone's clock first shows a reading, or has passed
// over it.
func firstShown(reading time.Time, zone *time.Location) time.Time {
	// Before any change near it the clock can only be at or behind the
	// reading: no zone is more than 15 hours from UTC, and one of them once
	// left a whole day out.
	at := reading.Add(-40 * time.Hour).In(zone)
	for {
		_, change := at.ZoneBounds()
		hit := at.Add(reading.Sub(shown(at)))
		if change.IsZero() || hit.Before(change) {
			return hit
		}
		if !shown(change).Before(reading) {
			return change
		}
		at = change
	}
}
