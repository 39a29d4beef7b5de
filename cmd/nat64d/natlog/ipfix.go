package natlog

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vmware/go-ipfix/pkg/entities"
	"github.com/vmware/go-ipfix/pkg/registry"

	"handoff64/conntrack"
)

// exporter sends events as IPFIX messages over UDP (RFC 7011, RFC 8158).
// Elements and records are go-ipfix's. Its exporting process is not used: it
// closes its socket for good when a collector is away for a moment, and its
// sequence numbers count the records of the message that they stand in, where
// RFC 7011 §3.1 and collectors count those before it. For one goroutine, but
// for sent and lost.
type exporter struct {
	collector string
	conn      net.Conn // nil while the collector's name cannot be resolved
	log       *slog.Logger
	templates [templateCount]template
	refresh   time.Time // when templates are due
	retry     time.Time // when dialling, or complaining, is due again
	seq       uint32    // data records sent before this message
	message   []byte
	set       int           // where the open set begins in message; 0 when there is none
	setID     uint16        // the open set's
	records   uint32        // in message
	sent      atomic.Uint64 // records
	lost      atomic.Uint64
}

// Templates (RFC 8158 tables 6 and 21).
const (
	sessionTemplate = iota
	bareTemplate    // a session without destination (RFC 6888 REQ-12)
	blockTemplate
	templateCount
	firstTemplateID = 256 // RFC 7011 §3.4.1
)

// template is a template's elements in order, and the set that announces it.
type template struct {
	elements []*entities.InfoElement
	set      []byte
}

var sessionElements = []string{
	"observationTimeMilliseconds", "natEvent", "sourceIPv6Address", "postNATSourceIPv4Address", "protocolIdentifier",
	"sourceTransportPort", "postNAPTSourceTransportPort",
	"destinationIPv6Address", "postNATDestinationIPv4Address", "destinationTransportPort", "postNAPTDestinationTransportPort",
}

var elementNames = [templateCount][]string{
	sessionTemplate: sessionElements,
	bareTemplate:    sessionElements[:7],
	blockTemplate: {"observationTimeMilliseconds", "natEvent", "sourceIPv6Address", "postNATSourceIPv4Address",
		"portRangeStart", "portRangeEnd"},
}

// natEvents are the values of natEvent (RFC 8158 table 2).
var natEvents = [...]uint8{
	conntrack.SessionCreated: 6, conntrack.SessionEnded: 7, conntrack.BlockAssigned: 16, conntrack.BlockReturned: 17,
}

const (
	// maxMessage fits an Ethernet with room for tunnels on the way (RFC 7011
	// §10.3.3 wants no fragments).
	maxMessage    = 1400
	messageHeader = 16
	setHeader     = 4
	templateSetID = 2
	domain        = 1 // observation domain: there is one NAT64 in a process
	// A collector that was started after us understands nothing until it has the
	// templates (RFC 7011 §8.4).
	templateRefresh = time.Minute
	retryAfter      = 10 * time.Second
)

func newExporter(collector string, log *slog.Logger) (*exporter, error) {
	registry.LoadRegistry()
	x := &exporter{collector: collector, log: log, message: make([]byte, messageHeader, maxMessage)}
	for i, names := range elementNames {
		t := &x.templates[i]
		for _, name := range names {
			e, err := registry.GetInfoElement(name, registry.IANAEnterpriseID)
			if err != nil {
				return nil, fmt.Errorf("IPFIX element %s: %w", name, err)
			}
			t.elements = append(t.elements, e)
		}
		set, err := entities.MakeTemplateSet(uint16(firstTemplateID+i), t.elements)
		if err != nil {
			return nil, fmt.Errorf("IPFIX template %d: %w", i, err)
		}
		set.UpdateLenInHeader()
		t.set = append(t.set, set.GetHeaderBuffer()...)
		for _, r := range set.GetRecords() {
			if t.set, err = r.AppendToBuffer(t.set); err != nil {
				return nil, fmt.Errorf("IPFIX template %d: %w", i, err)
			}
		}
	}
	return x, nil
}

// add puts an event into the message, which it sends first if that is full.
func (x *exporter) add(e *conntrack.Event, server6 netip.Addr, destinations bool) {
	if !x.ready() {
		x.lost.Add(1)
		return
	}
	n := sessionTemplate
	switch {
	case e.Kind == conntrack.BlockAssigned || e.Kind == conntrack.BlockReturned:
		n = blockTemplate
	case !destinations:
		n = bareTemplate
	}
	t := &x.templates[n]
	record := entities.NewDataRecordFromElements(uint16(firstTemplateID+n), t.values(e, server6), false)
	if len(x.message)+setHeader+record.GetRecordLength() > maxMessage {
		x.flush()
	}
	x.open(uint16(firstTemplateID + n))
	b, err := record.AppendToBuffer(x.message)
	if err != nil {
		x.lost.Add(1)
		return
	}
	x.message = b
	x.records++
}

// values gives a template's elements what they have in this event.
func (t *template) values(e *conntrack.Event, server6 netip.Addr) []entities.InfoElementWithValue {
	out := make([]entities.InfoElementWithValue, len(t.elements))
	for i, ie := range t.elements {
		switch ie.Name {
		case "observationTimeMilliseconds":
			out[i] = entities.NewDateTimeMillisecondsInfoElement(ie, uint64(e.At))
		case "natEvent":
			out[i] = entities.NewUnsigned8InfoElement(ie, natEvents[e.Kind])
		case "protocolIdentifier":
			out[i] = entities.NewUnsigned8InfoElement(ie, protocol(e.Proto))
		case "sourceIPv6Address":
			out[i] = entities.NewIPAddressInfoElement(ie, addr6(e.Client).AsSlice())
		case "postNATSourceIPv4Address":
			out[i] = entities.NewIPAddressInfoElement(ie, addr4(e.Mapped).AsSlice())
		case "destinationIPv6Address":
			out[i] = entities.NewIPAddressInfoElement(ie, server6.AsSlice())
		case "postNATDestinationIPv4Address":
			out[i] = entities.NewIPAddressInfoElement(ie, addr4(e.Server).AsSlice())
		default:
			out[i] = entities.NewUnsigned16InfoElement(ie, port(e, ie.Name))
		}
	}
	return out
}

func port(e *conntrack.Event, element string) uint16 {
	switch element {
	case "sourceTransportPort":
		return e.ClientPort
	case "postNAPTSourceTransportPort", "portRangeStart":
		return e.MappedPort
	case "portRangeEnd":
		return e.MappedLast
	}
	return e.ServerPort
}

// protocol is the client's: a ping is ICMPv6 there.
func protocol(p conntrack.Proto) uint8 {
	if p == conntrack.ICMP {
		return 58
	}
	return uint8(p)
}

// open makes the set with this ID the one that records go into.
func (x *exporter) open(id uint16) {
	if x.set != 0 && x.setID == id {
		return
	}
	x.closeSet()
	x.set, x.setID = len(x.message), id
	x.message = binary.BigEndian.AppendUint16(x.message, id)
	x.message = binary.BigEndian.AppendUint16(x.message, 0) // length, by closeSet
}

func (x *exporter) closeSet() {
	if x.set != 0 {
		binary.BigEndian.PutUint16(x.message[x.set+2:], uint16(len(x.message)-x.set))
		x.set = 0
	}
}

// ready has a socket, and sends templates when they are due.
func (x *exporter) ready() bool {
	now := time.Now()
	if x.conn == nil {
		if now.Before(x.retry) {
			return false
		}
		conn, err := net.Dial("udp", x.collector)
		if err != nil {
			x.complain(err)
			return false
		}
		x.conn = conn
	}
	if !now.Before(x.refresh) {
		x.flush()
		x.refresh = now.Add(templateRefresh)
		for _, t := range x.templates {
			x.message = append(x.message, t.set...)
		}
		x.send()
	}
	return true
}

// flush sends the message if there is anything in it.
func (x *exporter) flush() {
	if x.records > 0 {
		x.closeSet()
		x.send()
	}
}

// send fills in the header (RFC 7011 §3.1) and sends the message. Records that
// the socket refuses, as when nobody listens, count as lost; they were sent as
// far as sequence numbers go, so that a collector sees the gap.
func (x *exporter) send() {
	h := x.message[:messageHeader]
	binary.BigEndian.PutUint16(h, 10)
	binary.BigEndian.PutUint16(h[2:], uint16(len(x.message)))
	binary.BigEndian.PutUint32(h[4:], uint32(time.Now().Unix()))
	binary.BigEndian.PutUint32(h[8:], x.seq)
	binary.BigEndian.PutUint32(h[12:], domain)
	if _, err := x.conn.Write(x.message); err != nil {
		x.lost.Add(uint64(x.records))
		x.refresh = time.Now().Add(time.Second) // whoever comes back may have forgotten the templates
		x.complain(err)
	} else {
		x.sent.Add(uint64(x.records))
	}
	x.seq += x.records
	x.records, x.message = 0, h
}

// complain says what is wrong, but not for every message.
func (x *exporter) complain(err error) {
	if now := time.Now(); !now.Before(x.retry) {
		x.retry = now.Add(retryAfter)
		x.log.Warn("IPFIX records are lost", "collector", x.collector, "error", err)
	}
}

func (x *exporter) close() {
	if x.conn != nil {
		_ = x.conn.Close() // nothing is left in it
	}
}
