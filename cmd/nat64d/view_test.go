package main

import (
	"net/netip"
	"strings"
	"testing"

	"handoff64/cmd/nat64d/config"
	"handoff64/dataplane"
)

// A mapping of the control channel's port would take what servers send away
// from the handoff worker.
func TestControlPortCannotBeMapped(t *testing.T) {
	d := &daemon{cfg: &config.Config{Handoff: config.Handoff{Enabled: true, ClientPort: 64064}}}
	d.run.Store(&translator{rules: &dataplane.Rules{Pool4: dataplane.NewRanges4([]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")})}})
	err := d.AddBIB("udp", netip.MustParseAddrPort("[2001:db8::5]:80"), netip.MustParseAddrPort("192.0.2.1:64064"))
	if err == nil || !strings.Contains(err.Error(), "control channel") {
		t.Errorf("mapping the control port: %v", err)
	}
}
