package annotate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"
)

// Options say how lines are read and written. A plain value.
type Options struct {
	// Field and PortField are where the address and the port stand: the number
	// of a word of the line, from 1, or the name of a JSON field. Empty: where
	// the format has it.
	Field, PortField string
	By               By
	// Replace puts the client in the place of the address in text lines,
	// instead of adding it at their end.
	Replace bool
	// Slack is by how much the clocks and the moments of the two logs may
	// differ, for lines in whose own time nobody had the port.
	Slack time.Duration
	// Wait is how long to wait for what handoffd will know of a line that was
	// written just now.
	Wait time.Duration
}

// Counts is what became of lines. Lines is the sum of the rest.
type Counts struct {
	Lines     int `json:"lines"`
	Found     int `json:"found"`      // have their client
	Direct    int `json:"direct"`     // are nobody's but their own client's
	IPv6      int `json:"ipv6"`       // have an IPv6 address already
	Unknown   int `json:"unknown"`    // nobody is known behind it
	Ambiguous int `json:"ambiguous"`  // several clients may be meant
	NoAddress int `json:"no_address"` // have no address that was found
	NoTime    int `json:"no_time"`    // have no time that was understood
	TooLong   int `json:"too_long"`   // are longer than a megabyte
}

// longest is the length of lines that are looked at; longer ones pass.
const longest = 1 << 20

// Annotator adds clients to lines. Used by one goroutine.
type Annotator struct {
	Counts Counts

	options Options
	parser  *parser
	index   *Index
	source  *Source
	now     func() time.Time

	// For the input that came at once: whether the source was asked again, and
	// whether that was waited for.
	looked, waited bool

	clients []netip.AddrPort
	buf     []byte
}

// New reads all that the source has. The memory that it takes depends on that
// alone.
func New(ctx context.Context, source *Source, o Options) (*Annotator, error) {
	a := &Annotator{options: o, index: NewIndex(), source: source, now: time.Now}
	var err error
	if a.parser, err = newParser(o.Field, o.PortField, time.Now, time.Local); err != nil {
		return nil, err
	}
	return a, source.Load(ctx, a.index, o.By)
}

// input is read after what came of the last has been written, so that the
// annotator can stand behind tail -f.
type input struct {
	io.Reader
	before func() error
}

func (i *input) Read(b []byte) (int, error) {
	if err := i.before(); err != nil {
		return 0, err
	}
	return i.Reader.Read(b)
}

// Run copies lines until the input ends or ctx does. Lines leave as soon as the
// input has no more at hand.
func (a *Annotator) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	w := bufio.NewWriterSize(out, 1<<18)
	r := bufio.NewReaderSize(&input{in, func() error {
		a.looked, a.waited = false, false
		return w.Flush()
	}}, longest)
	for ctx.Err() == nil {
		b, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			a.Counts.Lines++
			a.Counts.TooLong++
			err = passLine(b, r, w)
		} else if len(b) > 0 {
			if lerr := a.line(ctx, b, w); lerr != nil {
				return lerr
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("copy the log: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the annotated log: %w", err)
	}
	return nil
}

// passLine copies a line that is too long; b is its beginning. It returns io.EOF
// if the input ends with it.
func passLine(b []byte, r *bufio.Reader, w *bufio.Writer) error {
	err := bufio.ErrBufferFull
	for errors.Is(err, bufio.ErrBufferFull) {
		if _, werr := w.Write(b); werr != nil {
			return werr
		}
		b, err = r.ReadSlice('\n')
	}
	_, werr := w.Write(b)
	return errors.Join(err, werr)
}

// line writes one line with its client. b has its end, unless it is the last.
func (a *Annotator) line(ctx context.Context, b []byte, w *bufio.Writer) error {
	text := bytes.TrimRight(b, "\r\n")
	ending := b[len(text):]
	var l line
	k, object := a.parser.parse(text, &l)
	a.Counts.Lines++
	verdict, known, err := a.judge(ctx, k, &l)
	if err != nil {
		return err
	}
	if known {
		text = a.render(text, object, verdict, &l)
	}
	_, err = w.Write(text)
	if _, eerr := w.Write(ending); err != nil || eerr != nil {
		return fmt.Errorf("write the annotated log: %w", errors.Join(err, eerr))
	}
	return nil
}

// render is the line as it is written. It stays valid until the next call.
func (a *Annotator) render(text []byte, object bool, v Verdict, l *line) []byte {
	switch {
	case object:
		a.buf = a.appendJSON(a.buf[:0], text, v)
	case !a.options.Replace:
		a.buf = a.appendText(a.buf[:0], text, v, l)
	default:
		a.buf = a.appendReplaced(a.buf[:0], text, v, l)
	}
	return a.buf
}

// appendReplaced puts the client where the address stood, in the shape that the
// line had. But the combined format has no port with the address, and programs
// that read it know none there.
func (a *Annotator) appendReplaced(dst, text []byte, v Verdict, l *line) []byte {
	own := netip.AddrFrom4(l.address)
	switch {
	case v != Found && l.combined:
		return append(own.AppendTo(append(dst, text[:l.begin]...)), text[l.end:]...)
	case v != Found:
		return append(dst, text...)
	}
	c := a.clients[0]
	if l.portEnd == 0 && !l.combined {
		return append(a.appendClient(append(dst, text[:l.begin]...), c), text[l.end:]...)
	}
	if l.portEnd == 0 || c.Port() == 0 {
		return append(c.Addr().AppendTo(append(dst, text[:l.begin]...)), text[l.end:]...)
	}
	if l.portBegin < l.begin {
		dst = strconv.AppendUint(append(dst, text[:l.portBegin]...), uint64(c.Port()), 10)
		return append(c.Addr().AppendTo(append(dst, text[l.portEnd:l.begin]...)), text[l.end:]...)
	}
	dst = c.Addr().AppendTo(append(dst, text[:l.begin]...))
	return append(strconv.AppendUint(append(dst, text[l.end:l.portBegin]...), uint64(c.Port()), 10), text[l.portEnd:]...)
}

// judge counts the line and, if it has an address that can be looked up, says
// what is known of it; the clients are in a.clients.
func (a *Annotator) judge(ctx context.Context, k kind, l *line) (v Verdict, known bool, err error) {
	c := &a.Counts
	switch {
	case k == noAddress:
		c.NoAddress++
		return v, false, nil
	case k == isIPv6:
		c.IPv6++
		return v, false, nil
	case a.options.By == ByTime && !l.hasTime:
		if a.index.addresses[l.address] != nil {
			c.NoTime++
			return v, false, nil
		}
	}
	v, err = a.find(ctx, l)
	switch v {
	case Found:
		c.Found++
	case Direct:
		c.Direct++
	case Unknown:
		c.Unknown++
	case Ambiguous:
		c.Ambiguous++
	}
	return v, true, err
}

// find asks the index, after it has learned what there is about the line's time.
func (a *Annotator) find(ctx context.Context, l *line) (Verdict, error) {
	by := a.options.By
	if by == ByTable && !a.looked || by == ByTime && l.at.To > a.source.asOf && !a.looked {
		a.looked = true
		if err := a.source.Refresh(ctx, a.index, by); err != nil {
			return Unknown, err
		}
	}
	at := l.at
	if by == ByTable {
		at = Moment{a.source.asOf, a.source.asOf}
	}
	v := a.ask(l, at)
	if v != Unknown {
		return v, nil
	}
	if v, err := a.await(ctx, l, at); v != Unknown || err != nil {
		return v, err
	}
	slack := a.options.Slack.Microseconds()
	return a.ask(l, Moment{at.From - slack, at.To + slack}), nil
}

func (a *Annotator) ask(l *line, at Moment) (v Verdict) {
	if l.hasPort {
		v, a.clients = a.index.Find(l.address, l.port, at, a.clients[:0])
	} else {
		v, a.clients = a.index.FindAlone(l.address, at, a.clients[:0])
	}
	return v
}

// pause is between two looks for what is not yet known.
const pause = 10 * time.Millisecond

// await waits, once for all input that came at once, for the entry of a connection
// that has only just begun: what the NAT64 tells of it comes a moment later.
func (a *Annotator) await(ctx context.Context, l *line, at Moment) (Verdict, error) {
	const recent = 2 * time.Second
	if !a.looked || a.waited || a.options.By != ByTime || a.now().UnixMicro()-at.To > recent.Microseconds() {
		return Unknown, nil
	}
	a.waited = true
	for end := a.now().Add(a.options.Wait); a.now().Before(end); {
		select {
		case <-ctx.Done():
			return Unknown, nil
		case <-time.After(pause):
		}
		if err := a.source.Refresh(ctx, a.index, ByTime); err != nil {
			return Unknown, err
		}
		if v := a.ask(l, Moment{at.From, at.To + a.options.Wait.Microseconds()}); v != Unknown {
			return v, nil
		}
	}
	return Unknown, nil
}

// appendText adds " client=" with the client, the address itself if it is its
// own, "?" if nobody is known, or several with commas between them.
func (a *Annotator) appendText(dst, text []byte, v Verdict, l *line) []byte {
	dst = append(append(dst, text...), " client="...)
	switch {
	case v == Direct:
		own := netip.AddrPortFrom(netip.AddrFrom4(l.address), l.port)
		if !l.hasPort {
			return own.Addr().AppendTo(dst)
		}
		return own.AppendTo(dst)
	case len(a.clients) == 0:
		return append(dst, '?')
	}
	for i, c := range a.clients {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = a.appendClient(dst, c)
	}
	return dst
}

// appendClient writes a client, without the port if that is not known.
func (a *Annotator) appendClient(dst []byte, c netip.AddrPort) []byte {
	if c.Port() == 0 {
		return c.Addr().AppendTo(dst)
	}
	return c.AppendTo(dst)
}

// appendJSON adds the fields HANDOFF_CLIENT and HANDOFF_CLIENT_PORT, as texts,
// which is what all fields of the journal are. Nothing is added for nobody, and
// nothing if several may be meant: then HANDOFF_CLIENTS has them.
func (a *Annotator) appendJSON(dst, text []byte, v Verdict) []byte {
	closing := bytes.LastIndexByte(text, '}')
	dst = append(dst, text[:closing]...)
	switch {
	case v == Found:
		dst = a.clients[0].Addr().AppendTo(append(dst, `,"HANDOFF_CLIENT":"`...))
		if p := a.clients[0].Port(); p != 0 {
			dst = strconv.AppendUint(append(dst, `","HANDOFF_CLIENT_PORT":"`...), uint64(p), 10)
		}
		dst = append(dst, '"')
	case v == Ambiguous && len(a.clients) > 0:
		dst = append(dst, `,"HANDOFF_CLIENTS":[`...)
		for i, c := range a.clients {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(a.appendClient(append(dst, '"'), c), '"')
		}
		dst = append(dst, ']')
	}
	return append(dst, text[closing:]...)
}
