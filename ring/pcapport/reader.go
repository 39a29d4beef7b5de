package pcapport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// pcapngMagic opens a pcapng file in either byte order.
const pcapngMagic = "\x0a\x0d\x0d\x0a"

// packetSource is what the readers of both file formats have in common.
type packetSource interface {
	ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error)
	LinkType() layers.LinkType
}

// Reader reads a capture of Ethernet frames: pcap with microseconds or
// nanoseconds in either byte order, also gzipped, or pcapng. Owned by one
// goroutine.
type Reader struct {
	name   string
	file   io.Closer
	source packetSource

	number int // of the packet in data, counted from 1 as Wireshark does
	data   []byte
	at     time.Time
	loaded bool // data holds a packet that take has not taken
	end    bool
}

// Open opens a capture file for reading.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("pcapport: %w", err)
	}
	r, err := NewReader(path, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.file = f
	return r, nil
}

// NewReader reads a capture from r; name is what errors call it.
func NewReader(name string, r io.Reader) (*Reader, error) {
	buffered := bufio.NewReaderSize(r, 1<<16)
	magic, err := buffered.Peek(len(pcapngMagic))
	if err != nil {
		return nil, fmt.Errorf("pcapport: %s is no capture file: %w", name, notEOF(err))
	}
	var source packetSource
	if string(magic) == pcapngMagic {
		options := pcapgo.DefaultNgReaderOptions
		options.ErrorOnMismatchingLinkType = true
		source, err = pcapgo.NewNgReader(buffered, options)
	} else {
		source, err = pcapgo.NewReader(buffered)
	}
	if err != nil {
		return nil, fmt.Errorf("pcapport: %s is no pcap or pcapng file: %w", name, notEOF(err))
	}
	if l := source.LinkType(); l != layers.LinkTypeEthernet {
		return nil, fmt.Errorf("pcapport: %s holds %v packets, want Ethernet", name, l)
	}
	return &Reader{name: name, source: source}, nil
}

// peek returns the time of the next packet.
func (r *Reader) peek() (at time.Time, ok bool, err error) {
	if r.loaded {
		return r.at, true, nil
	}
	if r.end {
		return time.Time{}, false, nil
	}
	data, info, err := r.source.ZeroCopyReadPacketData()
	if errors.Is(err, io.EOF) && info.Length == 0 {
		r.end = true
		return time.Time{}, false, nil
	}
	r.number++
	if err != nil {
		return time.Time{}, false, r.errorf("%w", notEOF(err))
	}
	if info.CaptureLength < info.Length {
		return time.Time{}, false, r.errorf("only %d of %d octets were captured: capture with a larger snap length", info.CaptureLength, info.Length)
	}
	if info.Timestamp.After(r.at) {
		r.at = info.Timestamp
	}
	r.data, r.loaded = data, true
	return r.at, true, nil
}

// take moves the packet that peek announced into room.
func (r *Reader) take(room []byte) (int, error) {
	if len(r.data) > len(room) {
		return 0, r.errorf("%d octets, a frame holds %d", len(r.data), len(room))
	}
	if len(r.data) == 0 {
		return 0, r.errorf("no octets")
	}
	r.loaded = false
	return copy(room, r.data), nil
}

// Next returns the next packet and its time, or io.EOF behind the last one. The
// octets are valid until the next call. Times never decrease: a packet that was
// captured out of order counts as of the time of its predecessor.
func (r *Reader) Next() ([]byte, time.Time, error) {
	at, ok, err := r.peek()
	if err != nil {
		return nil, at, err
	}
	if !ok {
		return nil, at, io.EOF
	}
	if len(r.data) == 0 {
		return nil, at, r.errorf("no octets")
	}
	r.loaded = false
	return r.data, at, nil
}

func (r *Reader) errorf(format string, args ...any) error {
	r.end = true
	return fmt.Errorf("pcapport: %s, packet %d: %w", r.name, r.number, fmt.Errorf(format, args...))
}

// Packets is the number of packets read so far.
func (r *Reader) Packets() int { return r.number }

// Close closes the file, if Open opened one.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	if err := r.file.Close(); err != nil {
		return fmt.Errorf("pcapport: close %s: %w", r.name, err)
	}
	return nil
}

// notEOF turns an end in the middle of something into what it is.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
