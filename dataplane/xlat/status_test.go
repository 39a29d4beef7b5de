package xlat

import "testing"

// TestStatusRows: every status has a name of its own and, but for OK, a
// section.
func TestStatusRows(t *testing.T) {
	seen := map[string]Status{}
	for s := range Status(NumStatus) {
		if other, twice := seen[s.String()]; s.String() == "" || twice {
			t.Errorf("status %d has the name %q of status %d", s, s, other)
		}
		seen[s.String()] = s
		if (s.Section() == "") != (s == OK) {
			t.Errorf("status %v has the section %q", s, s.Section())
		}
	}
	if beyond := Status(NumStatus); beyond.String() != "unknown" || beyond.Section() != "" || InnerFragment != beyond-1 {
		t.Errorf("the table ends before the statuses do")
	}
}

// TestEveryStatusHappens: no status without a packet that provokes it, in the
// fixtures or in a test of its own.
func TestEveryStatusHappens(t *testing.T) {
	happens := map[Status]bool{
		OK:              true,
		UDPZeroChecksum: true, // TestRefusedByConfiguration
		NoHeadroom:      true, // TestNoHeadroom
	}
	for _, s := range refused {
		happens[s] = true
	}
	for s := range Status(NumStatus) {
		if !happens[s] {
			t.Errorf("no test provokes %v", s)
		}
	}
}
