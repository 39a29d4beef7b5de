// Package dissector holds the Wireshark dissector for the handoff protocol,
// nat64handoff.lua, and its test with tshark.
package dissector

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const script = "nat64handoff.lua"

// datagram is a UDP payload on its way from port to port.
type datagram struct {
	from, to uint16
	payload  []byte
	quoted   int // > 0: in an ICMP error that quotes this many octets of payload
}

// capture writes a pcap file of raw IP packets (link type 101) from 192.0.2.7 to
// 198.51.100.9.
func capture(t *testing.T, datagrams []datagram) string {
	t.Helper()
	var b bytes.Buffer
	le := binary.LittleEndian
	b.Write(le.AppendUint32(nil, 0xa1b2c3d4))
	b.Write([]byte{2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 101, 0, 0, 0})
	for i, d := range datagrams {
		p := d.packet()
		record := le.AppendUint32(nil, uint32(i))
		record = le.AppendUint32(record, 0)
		record = le.AppendUint32(record, uint32(len(p)))
		b.Write(le.AppendUint32(record, uint32(len(p))))
		b.Write(p)
	}
	path := filepath.Join(t.TempDir(), "handoff.pcap")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// packet puts IPv4 and UDP headers in front, and around that an ICMP port
// unreachable if it is to be quoted. Checksums are 0: tshark does not verify
// them by default.
func (d *datagram) packet() []byte {
	udp := binary.BigEndian.AppendUint16(nil, d.from)
	udp = binary.BigEndian.AppendUint16(udp, d.to)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(d.payload)))
	udp = append(udp, 0, 0)
	p := ipv4(17, append(udp, d.payload...))
	if d.quoted == 0 {
		return p
	}
	return ipv4(1, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, p[:20+8+d.quoted]...))
}

func ipv4(protocol byte, payload []byte) []byte {
	header := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 7, 198, 51, 100, 9}
	binary.BigEndian.PutUint16(header[2:], uint16(20+len(payload)))
	return append(header, payload...)
}

// comment is what stands behind # in a line of a vector.
var comment = regexp.MustCompile(`#.*`)

func octets(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(comment.ReplaceAllString(text, "")), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vector is a payload that the codec is tested with, too; written by hand.
func vector(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "handoff", "wire", "testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	return octets(t, string(text))
}

// tshark runs it with the dissector. What it says about itself on stderr is
// shown when it fails, and any Lua error is a failure.
func tshark(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("needs tshark (apt-get install tshark): the Wireshark dissector was not tested")
	}
	cmd := exec.Command("tshark", append([]string{"-X", "lua_script:" + script}, args...)...)
	// Neither the preferences nor the plugins of whoever runs the test.
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "WIRESHARK_CONFIG_DIR=")
	var out, diagnosis bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	if err := cmd.Run(); err != nil {
		t.Fatalf("tshark %s: %v\n%s", strings.Join(args, " "), err, diagnosis.String())
	}
	if said := out.String() + diagnosis.String(); strings.Contains(said, "Lua Error") || strings.Contains(said, script+":") {
		t.Fatalf("tshark %s:\n%s", strings.Join(args, " "), said)
	}
	return out.String()
}

// row is a payload, and what tshark shall show: field names with their values,
// several with commas between, and all expert infos of the dissector, or none.
type row struct {
	name    string
	payload []byte
	fields  map[string]string
	experts []string
}

const (
	p        = "nat64handoff."
	aToken   = "002aa0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
	aRotated = "0029b0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
	anAuth   = "0001c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"
	another  = "0001e0e1e2e3e4e5e6e7e8e9eaebecedeeef"
	sentence = "[[ This is the NAT64 handoff protocol. The client is using IPv6. To know their real IP address you need to use this protocol or support IPv6. ]]"
	anEntry  = "3710 0e87 0064ff9b0000000000000000 20010db8000000000000000000000017 cfc2"
	anIPv4   = "45000014 00000000 40fd0000 c6336409 c0000207"
)

func goodRows(t *testing.T) []row {
	rows := []row{
		{"message-identifier", nil, map[string]string{p + "type": "1", p + "identifier": sentence}, nil},
		{"message-no-op", nil, map[string]string{p + "type": "2", p + "length": "2", p + "data": "deadbeef"}, nil},
		{"message-invalid", nil, map[string]string{p + "type": "3", p + "data": ""}, nil},
		{"message-token", nil, map[string]string{p + "type": "4", p + "token": aToken, p + "epoch": "42"}, nil},
		{"message-token-empty", nil, map[string]string{p + "type": "4", p + "length": "0", p + "token": ""}, nil},
		{"message-rotation", nil, map[string]string{p + "rotation": aRotated, p + "epoch": "41"}, nil},
		{"message-authenticator", nil, map[string]string{p + "authenticator": anAuth}, nil},
		{"message-entry", nil, map[string]string{p + "entry.mapped_port": "3719", p + "entry.prefix": "64:ff9b::",
			p + "entry.client": "2001:db8::17", p + "entry.client_port": "53186", p + "entries": "1"}, []string{"no_authenticator"}},
		{"message-hint", nil, map[string]string{p + "hint": "3719"}, nil},
		{"message-reserved", nil, map[string]string{p + "type": "0,9,10,11,12,13,14,15", p + "data": "0000,ffff,01020304"}, nil},
		{"message-ipv4", nil, map[string]string{p + "format": "4", p + "packet": "4", "ip.src": "192.0.2.7,198.51.100.9", "udp.dstport": "64064,3719"}, nil},
		{"message-ipv6", nil, map[string]string{p + "format": "6", p + "packet": "6", "ipv6.src": "2001:db8::17", "ipv6.dst": "64:ff9b::c633:6409"},
			[]string{"no_authenticator"}},
		{"to-server-entry", nil, map[string]string{p + "type": "4,1,6,7", p + "token": aToken, p + "authenticator": anAuth, p + "entry.client": "2001:db8::17"}, nil},
		{"to-server-entry-rotation", nil, map[string]string{p + "type": "4,5,1,6,7", p + "epoch": "42,41,1"}, nil},
		{"to-server-ipv4", nil, map[string]string{p + "type": "4", p + "format": "3,4", "ip.dst": "198.51.100.9,192.0.2.7"}, nil},
		{"to-server-ipv6", nil, map[string]string{p + "type": "4,6,8", p + "hint": "3719", "ipv6.dst": "64:ff9b::c633:6409", "udp.srcport": "64064,53186"}, nil},
		{"to-server-entry-ipv6", nil, map[string]string{p + "type": "4,1,6,7", p + "packet": "6"}, nil},
		{"to-nat64-a-before", nil, map[string]string{p + "type": "4", "ip.ttl": "64,64"}, nil},
		{"to-nat64-a-after", nil, map[string]string{p + "type": "4", "ip.ttl": "64,63"}, nil},
		{"to-nat64-b", nil, map[string]string{p + "type": "6", "ipv6.dst": "2001:db8::17"}, nil},
		{"to-nat64-c", nil, map[string]string{p + "type": "6,7", p + "entry.mapped_port": "3719"}, nil},
		{"to-nat64-c-ipv4", nil, map[string]string{p + "type": "6,7", p + "packet": "4"}, nil},
		{"to-nat64-c-ipv6", nil, map[string]string{p + "type": "6,7", p + "packet": "6"}, nil},
		{"multi-one-group", nil, map[string]string{p + "type": "4,1,6,7,7", p + "entries": "2", p + "entry.mapped_port": "3719,47102"}, nil},
		{"multi-two-groups", nil, map[string]string{p + "type": "4,5,1,6,7,7,6,7", p + "entries": "3", p + "authenticator": anAuth + "," + another,
			p + "entry.client": "2001:db8::17,2001:db8::17,2001:db8::75", p + "entry.prefix": "64:ff9b::,64:ff9b::,2001:db8:64::",
			p + "entry.client_port": "53186,65535,33131"}, nil},
		{"validation", nil, map[string]string{p + "type": "6", "ipv6.nxt": "59", "ipv6.src": "::"}, nil},
		{"validation-token", nil, map[string]string{p + "type": "4", "ipv6.nxt": "59"}, nil},
		{"validation-returned", nil, map[string]string{p + "type": "4,6", p + "packet": "4,6", "ip.src": "192.0.2.7,198.51.100.9", "udp.dstport": "64064,9"}, nil},
	}
	for i := range rows {
		rows[i].payload = vector(t, rows[i].name)
	}
	return rows
}

func badRows(t *testing.T) []row {
	id := hex.EncodeToString(vector(t, "message-identifier"))
	multi := "3400" + id
	nested := []byte{0x34, 0}
	for range 6 {
		d := datagram{from: 64064, to: 9, payload: nested}
		nested = d.packet()
	}
	rows := []row{
		{"unknown format", octets(t, "3400 50"), map[string]string{p + "type": "4", p + "format": "3,5"}, []string{"unknown_format"}},
		{"type without length", octets(t, "34"), map[string]string{p + "type": "4", p + "length": ""}, []string{"cut_message"}},
		{"data cut", octets(t, "3400 3602 00"), map[string]string{p + "type": "4,6", p + "length": "0,2"}, []string{"cut_message"}},
		{"entry short", octets(t, "3600 3701 0400"), map[string]string{p + "entry.mapped_port": "", p + "data": "0400"}, []string{"bad_length"}},
		{"hint long", octets(t, "3802 04000400"), map[string]string{p + "hint": ""}, []string{"bad_length"}},
		{"hint empty", octets(t, "3800"), map[string]string{p + "hint": ""}, []string{"bad_length"}},
		{"identifier wrong", octets(t, strings.Replace(id, "4e41", "6e61", 1)), map[string]string{p + "type": "1"}, []string{"bad_identifier"}},
		{"IPv4 header cut", octets(t, "3400 4500"), map[string]string{p + "packet": "4"}, []string{"cut_packet"}},
		{"IPv4 payload cut", octets(t, "45000018"+anIPv4[8:]), nil, []string{"cut_packet"}},
		{"IPv4 lengths", octets(t, "45000013"+anIPv4[8:]), nil, []string{"bad_packet"}},
		{"IPv4 header of 16 octets", octets(t, "44"+anIPv4[2:]), nil, []string{"bad_packet"}},
		{"IPv4 options too long", octets(t, "46"+anIPv4[2:]), nil, []string{"bad_packet"}},
		{"octets behind", octets(t, anIPv4+"3400"), map[string]string{p + "type": ""}, []string{"octets_after_packet"}},
		{"IPv6 header cut", octets(t, "3600 60000000"), map[string]string{p + "packet": "6"}, []string{"cut_packet"}},
		{"two tokens", octets(t, "3400 3400"+anIPv4), nil, []string{"duplicate"}},
		{"entry outside", octets(t, multi+anEntry+"3600"+anEntry), map[string]string{p + "entries": "2"}, []string{"entry_outside_group"}},
		{"empty groups", octets(t, multi+"3600 3600"+anEntry+"3600"), nil, []string{"empty_group", "empty_group"}},
		{"packet among groups", octets(t, multi+"3600"+anEntry+anEntry+anIPv4), nil, []string{"packet_among_groups"}},
		{"multi-entry too long", octets(t, multi+"3600"+strings.Repeat(anEntry, 32)), map[string]string{p + "entries": "32"}, []string{"too_long"}},
		{"nested too deep", nested, nil, []string{"too_deep"}},
		{"empty", nil, nil, nil}, // tshark hands no empty payload on
	}
	return rows
}

// TestFields compares what tshark makes of each payload with what was put in.
func TestFields(t *testing.T) {
	rows := append(goodRows(t), badRows(t)...)
	var datagrams []datagram
	for _, r := range rows {
		d := datagram{from: 64064, to: 64064, payload: r.payload}
		if strings.HasPrefix(r.name, "validation") && r.name != "validation-returned" {
			d.to = 9
		}
		datagrams = append(datagrams, d)
	}
	frames := dissect(t, capture(t, datagrams))
	if len(frames) != len(rows) {
		t.Fatalf("%d frames of %d", len(frames), len(rows))
	}
	for i, r := range rows {
		got := frames[i]
		for field, want := range r.fields {
			if have := strings.Join(got[field], ","); have != want {
				t.Errorf("%s: %s is %q, want %q", r.name, field, have, want)
			}
		}
		if experts := expertsIn(got); !slices.Equal(experts, r.experts) {
			t.Errorf("%s: expert infos %v, want %v", r.name, experts, r.experts)
		}
		if len(r.payload) > 0 && !slices.Equal(got["_ws.col.Protocol"], []string{"NAT64HO"}) {
			t.Errorf("%s: protocol column %q", r.name, got["_ws.col.Protocol"])
		}
	}
}

// statuses are the expert infos, in the order of the dissector's table.
var statuses = []string{"unknown_format", "cut_message", "cut_packet", "bad_packet", "octets_after_packet", "bad_length", "bad_identifier",
	"too_long", "duplicate", "no_authenticator", "packet_among_groups", "entry_outside_group", "empty_group", "not_captured", "too_deep"}

func expertsIn(frame map[string][]string) (found []string) {
	for _, s := range statuses {
		for range frame[p+s] {
			found = append(found, s)
		}
	}
	return found
}

// shown are the fields that TestFields may ask for.
var shown = []string{"_ws.col.Protocol", "_ws.col.Info", p + "format", p + "type", p + "length", p + "identifier", p + "token", p + "rotation",
	p + "authenticator", p + "epoch", p + "entry.mapped_port", p + "entry.prefix", p + "entry.client", p + "entry.client_port", p + "hint",
	p + "data", p + "entries", p + "packet", "ip.src", "ip.dst", "ip.ttl", "ipv6.src", "ipv6.dst", "ipv6.nxt", "udp.srcport", "udp.dstport"}

// dissect returns the fields of each frame: name to values, in order.
func dissect(t *testing.T, path string, options ...string) (frames []map[string][]string) {
	t.Helper()
	args := append([]string{"-r", path, "-T", "json"}, options...)
	for _, name := range shown {
		args = append(args, "-e", name)
	}
	for _, s := range statuses {
		args = append(args, "-e", p+s)
	}
	var parsed []struct {
		Source struct{ Layers map[string][]string } `json:"_source"`
	}
	if err := json.Unmarshal([]byte(tshark(t, args...)), &parsed); err != nil {
		t.Fatalf("what tshark wrote: %v", err)
	}
	for _, f := range parsed {
		frames = append(frames, f.Source.Layers)
	}
	return frames
}

// TestPortPreference: on another port only if told so.
func TestPortPreference(t *testing.T) {
	path := capture(t, []datagram{{from: 1500, to: 5000, payload: vector(t, "to-server-entry")}})
	if got := dissect(t, path)[0][p+"token"]; got != nil {
		t.Errorf("port 5000 without the preference: token %v", got)
	}
	if got := dissect(t, path, "-o", p+"port:5000")[0][p+"token"]; !slices.Equal(got, []string{aToken}) {
		t.Errorf("port 5000 with the preference: token %v", got)
	}
	usual := capture(t, []datagram{{from: 1500, to: 64064, payload: vector(t, "to-server-entry")}})
	if got := dissect(t, usual, "-o", p+"port:5000")[0][p+"token"]; got != nil {
		t.Errorf("port 64064 with another preference: token %v", got)
	}
}

// TestQuoted: an ICMP error quotes a payload's beginning, which is not called
// malformed for that.
func TestQuoted(t *testing.T) {
	payload := vector(t, "to-server-entry")
	frame := dissect(t, capture(t, []datagram{{from: 64064, to: 64064, payload: payload, quoted: 60}}))[0]
	if !slices.Equal(frame[p+"token"], []string{aToken}) || !slices.Equal(expertsIn(frame), []string{"not_captured"}) {
		t.Errorf("token %v, expert infos %v", frame[p+"token"], expertsIn(frame))
	}
}

// TestFilterAndInfo: display filters find a client and the malformed; the info
// column names messages and entry.
func TestFilterAndInfo(t *testing.T) {
	path := capture(t, []datagram{
		{from: 64064, to: 64064, payload: vector(t, "multi-two-groups")},
		{from: 64064, to: 64064, payload: vector(t, "to-nat64-c-ipv6")},
		{from: 64064, to: 64064, payload: octets(t, "3400 50")},
	})
	for filter, want := range map[string]string{
		p + "entry.client == 2001:db8::75":        "1",
		p + "entry.client == 2001:db8::17":        "1 2",
		p + "entries > 1":                         "1",
		"ipv6.src == 2001:db8::17":                "2",
		p + "unknown_format":                      "3",
		"nat64handoff && !(nat64handoff.entries)": "3",
	} {
		out := tshark(t, "-r", path, "-Y", filter, "-T", "fields", "-e", "frame.number")
		if got := strings.Join(strings.Fields(out), " "); got != want {
			t.Errorf("%s finds frames %q, want %q", filter, got, want)
		}
	}
	want := []string{
		"token, rotation, identifier, authenticator, entry, entry, authenticator, entry: [2001:db8::17]:53186 at port 3719 and 2 more",
		"authenticator, entry, IPv6 packet: [2001:db8::17]:53186 at port 3719",
		"token",
	}
	for i, frame := range dissect(t, path) {
		if got := frame["_ws.col.Info"]; !slices.Equal(got, want[i:i+1]) {
			t.Errorf("info column %q, want %q", got, want[i])
		}
	}
}

// payloadLine is the head of a payload in what tshark -V writes.
var payloadLine = regexp.MustCompile(`(?m)^ *NAT64 Handoff$`)

// TestEveryCut: no payload, cut anywhere, makes the script fail; tshark reports
// a Lua error in the tree, which is looked at here.
func TestEveryCut(t *testing.T) {
	var datagrams []datagram
	for _, name := range []string{"multi-two-groups", "to-server-entry-ipv6", "validation-returned"} {
		payload := vector(t, name)
		for n := 1; n < len(payload); n++ {
			datagrams = append(datagrams, datagram{from: 64064, to: 64064, payload: payload[:n]},
				datagram{from: 64064, to: 64064, payload: payload, quoted: n})
		}
	}
	out := tshark(t, "-r", capture(t, datagrams), "-V")
	if n := len(payloadLine.FindAllString(out, -1)); n < len(datagrams) {
		t.Errorf("%d payloads dissected of %d", n, len(datagrams))
	}
}
