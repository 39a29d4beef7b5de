package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	jsonType = "application/json"
	lineType = "application/x-ndjson"
	maxBody  = 64 << 10
	maxSet   = 1 << 20 // a list of 4096 prefixes

	// stallTimeout cuts off a reader that takes nothing for so long, so that a
	// stopped nat64ctl does not hold a walk over the table open for ever.
	stallTimeout = 30 * time.Second
	// flushEvery is how many lines go out at once.
	flushEvery = 512
)

// bibRequest is the body of a request to add or remove a static mapping.
type bibRequest struct {
	Protocol string         `json:"protocol"`
	Client   netip.AddrPort `json:"client"`
	Mapped   netip.AddrPort `json:"mapped"`
}

// handler is the HTTP interface of the control socket:
//
//	GET  /v1/status, /v1/stats, /v1/drops   one JSON value
//	GET  /v1/sessions?protocol=…&limit=…    one JSON object a line
//	GET  /v1/bib, /v1/servers               one JSON object a line
//	POST /v1/flush?handoff=true             nothing
//	POST /v1/bib/add, /v1/bib/remove        {"protocol", "client", "mapped"}
//	GET  /v1/settings                       one JSON value
//	POST /v1/set                            {"key", "value"}; the answer is a Changed
//	POST /v1/reload                         the answer is a Changed
//	GET  /v1/trace?client=…&count=…         one JSON object a packet, and one at the end
//	GET  /v1/capture?client=…&octets=…      pcapng
//	POST /v1/tap/N/end                      ends the trace or capture whose answer has "Nat64-Tap: N"
//
// Every error is {"error": "…"}; what is wrong with a configuration comes as
// status 422 and has "problems" as well. Once cutting is set, walks end.
func handler(d Daemon, cutting *atomic.Bool, under *taps) http.Handler {
	mux := http.NewServeMux()
	under.register(mux, d)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.Status()) })
	mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.Stats()) })
	mux.HandleFunc("GET /v1/drops", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.DropReasons()) })
	mux.HandleFunc("GET /v1/sessions", func(w http.ResponseWriter, r *http.Request) {
		f, err := ParseFilter(r.URL.Query())
		if err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		streamSessions(newLineWriter(w, cutting), d, f)
	})
	mux.HandleFunc("GET /v1/bib", func(w http.ResponseWriter, _ *http.Request) {
		lines := newLineWriter(w, cutting)
		d.BIB(func(e BIBEntry) bool { return lines.write(e) })
		lines.close()
	})
	mux.HandleFunc("GET /v1/servers", func(w http.ResponseWriter, _ *http.Request) {
		lines := newLineWriter(w, cutting)
		d.Servers(func(s HandoffServer) bool { return lines.write(s) })
		lines.close()
	})
	mux.HandleFunc("POST /v1/flush", func(w http.ResponseWriter, r *http.Request) {
		if err := d.Flush(r.URL.Query().Get("handoff") == "true"); err != nil {
			writeError(w, http.StatusConflict, err)
			return
		}
		writeJSON(w, struct{}{})
	})
	mux.HandleFunc("POST /v1/bib/add", changeBIB(func(q bibRequest) error { return d.AddBIB(q.Protocol, q.Client, q.Mapped) }))
	mux.HandleFunc("POST /v1/bib/remove", changeBIB(func(q bibRequest) error { return d.RemoveBIB(q.Protocol, q.Mapped) }))
	mux.HandleFunc("GET /v1/settings", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.Settings()) })
	mux.HandleFunc("POST /v1/set", func(w http.ResponseWriter, r *http.Request) {
		var q setRequest
		if err := readJSON(w, r, maxSet, &q); err != nil {
			writeError(w, http.StatusBadRequest, fmt.Errorf("reading the change: %w", err))
			return
		}
		answerChange(w)(d.Set(peerOf(r), q.Key, q.Value))
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) { answerChange(w)(d.Reload(peerOf(r))) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, fmt.Errorf("%s %s is not part of the control interface", r.Method, r.URL.Path))
	})
	return mux
}

// streamSessions writes the sessions that f chooses while the daemon walks its
// tables. Filter and limit are applied here, whatever the daemon did with them.
func streamSessions(lines *lineWriter, d Daemon, f SessionFilter) {
	left := f.Limit
	d.Sessions(f, func(s Session) bool {
		if !f.Match(&s) {
			return lines.wanted()
		}
		left--
		return lines.write(s) && left != 0
	})
	lines.close()
}

// changeBIB serves a request that changes the static mappings.
func changeBIB(change func(bibRequest) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q bibRequest
		if err := readJSON(w, r, maxBody, &q); err != nil {
			writeError(w, http.StatusBadRequest, fmt.Errorf("reading the mapping: %w", err))
			return
		}
		switch q.Protocol {
		case "tcp", "udp", "icmp":
		default:
			writeError(w, http.StatusBadRequest, fmt.Errorf("protocol %q is unknown; give tcp, udp or icmp", q.Protocol))
			return
		}
		if err := change(q); err != nil {
			writeError(w, http.StatusConflict, err)
			return
		}
		writeJSON(w, struct{}{})
	}
}

// setRequest is the body of a request to set a key; Value is as the user wrote it.
type setRequest struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func readJSON(w http.ResponseWriter, r *http.Request, limit int64, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// answerChange writes what became of a change.
func answerChange(w http.ResponseWriter) func(Changed, error) {
	return func(c Changed, err error) {
		var bad ConfigError
		switch {
		case errors.As(err, &bad):
			w.Header().Set("Content-Type", jsonType)
			w.WriteHeader(http.StatusUnprocessableEntity)
			b, _ := json.Marshal(map[string]any{"error": bad.Error(), "problems": bad.Problems}) // strings always encode
			w.Write(append(b, '\n'))
		case err != nil:
			writeError(w, http.StatusConflict, err)
		default:
			writeJSON(w, c)
		}
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		writeError(w, http.StatusInternalServerError, fmt.Errorf("encoding the answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", jsonType)
	w.Write(append(b, '\n')) // a client that has gone away needs no answer
}

func writeError(w http.ResponseWriter, code int, err error) {
	b, _ := json.Marshal(map[string]string{"error": err.Error()}) // strings always encode
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
}

// lineWriter streams JSON objects, one a line, with bounded memory. It belongs
// to one request.
type lineWriter struct {
	buf     *bufio.Writer
	enc     *json.Encoder
	ctrl    *http.ResponseController
	cutting *atomic.Bool
	n       int
	err     error
}

var errStopping = errors.New("nat64d is stopping")

func newLineWriter(w http.ResponseWriter, cutting *atomic.Bool) *lineWriter {
	w.Header().Set("Content-Type", lineType)
	l := &lineWriter{cutting: cutting, buf: bufio.NewWriterSize(w, 64<<10), ctrl: http.NewResponseController(w)}
	l.enc = json.NewEncoder(l.buf)
	return l
}

// wanted says whether more lines are.
func (l *lineWriter) wanted() bool {
	if l.err == nil && l.cutting.Load() {
		l.err = errStopping
	}
	return l.err == nil
}

// write adds a line and says whether more is wanted.
func (l *lineWriter) write(v any) bool {
	if l.wanted() {
		if l.n%flushEvery == 0 {
			l.err = l.ctrl.SetWriteDeadline(time.Now().Add(stallTimeout))
		}
		l.n++
	}
	if l.err == nil {
		l.err = l.enc.Encode(v)
	}
	return l.err == nil
}

// close sends what is left. When writing failed it ends the connection in a way
// that the reader cannot take for the end of the table.
func (l *lineWriter) close() {
	if l.err == nil {
		l.err = l.buf.Flush()
	}
	if l.err == nil {
		l.err = l.ctrl.SetWriteDeadline(time.Time{}) // the connection may serve another request
	}
	if l.err != nil {
		panic(http.ErrAbortHandler)
	}
}
