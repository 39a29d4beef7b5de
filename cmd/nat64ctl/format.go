package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// count is a number with separators between thousands.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// octets is an amount of data with its binary unit.
func octets(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		v /= 1024
		if v < 1023.95 { // what would round to 1024.0 takes the next unit
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// span is a length of time: tenths of a second below a minute, then seconds,
// and minutes only from a day up.
func span(seconds float64) string {
	if seconds < 60 {
		return fmt.Sprintf("%.1fs", seconds)
	}
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	const day = 24 * time.Hour
	days := ""
	if d >= day {
		days = fmt.Sprintf("%dd", d/day)
		d = (d % day).Truncate(time.Minute)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return days + s
}

// percent is how much of whole part is.
func percent(part, whole int) string {
	if whole <= 0 {
		return "0.0 %"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
