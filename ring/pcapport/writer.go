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

// snapLen is what the files' headers announce: the largest that tcpdump takes.
const snapLen = 262144

// Writer writes a capture of Ethernet frames: pcap with nanoseconds, little
// endian on every machine. Owned by one goroutine.
type Writer struct {
	name   string
	file   io.Closer
	buf    *bufio.Writer
	pcap   *pcapgo.Writer
	number int
}

// Create makes a capture file, or empties the one that is there.
func Create(path string) (*Writer, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("pcapport: %w", err)
	}
	w, err := NewWriter(path, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w.file = f
	return w, nil
}

// NewWriter writes a capture to w; name is what errors call it.
func NewWriter(name string, w io.Writer) (*Writer, error) {
	buf := bufio.NewWriterSize(w, 1<<16)
	pcap := pcapgo.NewWriterNanos(buf)
	if err := pcap.WriteFileHeader(snapLen, layers.LinkTypeEthernet); err != nil {
		return nil, fmt.Errorf("pcapport: %s: write the file header: %w", name, err)
	}
	return &Writer{name: name, buf: buf, pcap: pcap}, nil
}

func (w *Writer) write(at time.Time, packet []byte) error {
	w.number++
	info := gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(packet), Length: len(packet)}
	if err := w.pcap.WritePacket(info, packet); err != nil {
		return fmt.Errorf("pcapport: %s, packet %d: %w", w.name, w.number, err)
	}
	return nil
}

// Packets is the number of packets written so far.
func (w *Writer) Packets() int { return w.number }

// Close writes out what is buffered and closes the file, if Create made one.
func (w *Writer) Close() error {
	err := w.buf.Flush()
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
	}
	if err != nil {
		return fmt.Errorf("pcapport: close %s: %w", w.name, err)
	}
	return nil
}
