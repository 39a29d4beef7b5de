package traffic

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"handoff64/tools/lab"
)

// sumTrailer carries the SHA-256 of a body behind it, where the server knows
// it.
const sumTrailer = "X-Sha256"

// Web is an HTTP server in a host. GET /octets?n=N answers with a stream of N
// octets and its checksum, at most R a second with &rate=R; PUT /sink with the checksum of what it was sent.
type Web struct {
	server http.Server
	done   chan struct{}
}

// ServeWeb starts a server; Close stops it.
func ServeWeb(h lab.Host, address string) (*Web, error) {
	l, err := h.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("web server: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /octets", sendOctets)
	mux.HandleFunc("PUT /sink", sinkOctets)
	w := &Web{server: http.Server{Handler: mux}, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		// Close makes this return; what a client misses, the client reports.
		_ = w.server.Serve(l)
	}()
	return w, nil
}

// Close ends the server and all its connections.
func (w *Web) Close() error {
	err := w.server.Close()
	<-w.done
	return err
}

func sendOctets(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
	if err != nil || n < 0 {
		http.Error(w, "n must be a number of octets", http.StatusBadRequest)
		return
	}
	rate := int64(0)
	if text := r.URL.Query().Get("rate"); text != "" {
		if rate, err = strconv.ParseInt(text, 10, 64); err != nil || rate < 1 {
			http.Error(w, "rate must be a number of octets a second", http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Trailer", sumTrailer)
	s := NewStream(n)
	if _, err := io.CopyBuffer(w, &paced{s, rate, time.Now(), 0}, make([]byte, 256<<10)); err == nil {
		w.Header().Set(sumTrailer, hex.EncodeToString(s.Sum()))
	}
}

// paced reads no faster than so many octets a second, or as fast as it can for
// 0. For one goroutine.
type paced struct {
	r     io.Reader
	rate  int64
	start time.Time
	count int64
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	if p.rate > 0 {
		time.Sleep(time.Until(p.start.Add(time.Duration(float64(p.count) / float64(p.rate) * float64(time.Second)))))
		b = b[:min(len(b), 16<<10)]
	}
	n, err := p.r.Read(b)
	p.count += int64(n)
	return n, err
}

func sinkOctets(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, r.Body, make([]byte, 256<<10)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	io.WriteString(w, hex.EncodeToString(sum.Sum(nil)))
}

// Transfer is the outcome of a download or upload whose checksum was right.
type Transfer struct {
	Octets  int64
	Elapsed time.Duration
	SHA256  string
}

// Mbps is the rate of the payload in 10⁶ bit/s.
func (t Transfer) Mbps() float64 { return float64(t.Octets) * 8 / t.Elapsed.Seconds() / 1e6 }

// transport makes connections from inside the host, a new one each time.
func transport(h lab.Host) *http.Transport {
	return &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true, DisableCompression: true, WriteBufferSize: 256 << 10, ReadBufferSize: 256 << 10}
}

// Download fetches n octets from the web server at address ("[…]:80") and
// compares their checksum with the server's.
func Download(ctx context.Context, h lab.Host, address string, n int64) (Transfer, error) {
	return download(ctx, h, fmt.Sprintf("http://%s/octets?n=%d", address, n), n, io.Discard)
}

// DownloadSlowly is Download at a given number of octets a second. got counts
// them as they come.
func DownloadSlowly(ctx context.Context, h lab.Host, address string, n, rate int64, got *atomic.Int64) (Transfer, error) {
	return download(ctx, h, fmt.Sprintf("http://%s/octets?n=%d&rate=%d", address, n, rate), n, counter{got})
}

// counter is an io.Writer that adds up what it is given.
type counter struct{ n *atomic.Int64 }

// Write implements io.Writer.
func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

func download(ctx context.Context, h lab.Host, url string, n int64, also io.Writer) (Transfer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Transfer{}, fmt.Errorf("download %s: %w", url, err)
	}
	start := time.Now()
	resp, err := transport(h).RoundTrip(req)
	if err != nil {
		return Transfer{}, fmt.Errorf("download %s: %w", url, err)
	}
	defer resp.Body.Close()
	sum := sha256.New()
	got, err := io.CopyBuffer(io.MultiWriter(sum, also), resp.Body, make([]byte, 256<<10))
	t := Transfer{Octets: got, Elapsed: time.Since(start), SHA256: hex.EncodeToString(sum.Sum(nil))}
	if err != nil {
		return t, fmt.Errorf("download %s: after %d octets: %w", url, got, err)
	}
	if want := resp.Trailer.Get(sumTrailer); got != n || t.SHA256 != want {
		return t, fmt.Errorf("download %s: got %d octets with SHA-256 %s, want %d with %s", url, got, t.SHA256, n, want)
	}
	return t, nil
}

// Upload sends n octets to the web server at address and compares the
// checksum that it answers with.
func Upload(ctx context.Context, h lab.Host, address string, n int64) (Transfer, error) {
	url := fmt.Sprintf("http://%s/sink", address)
	body := NewStream(n)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, body)
	if err != nil {
		return Transfer{}, fmt.Errorf("upload %s: %w", url, err)
	}
	req.ContentLength = n
	start := time.Now()
	resp, err := transport(h).RoundTrip(req)
	if err != nil {
		return Transfer{}, fmt.Errorf("upload %s: %w", url, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return Transfer{}, fmt.Errorf("upload %s: read the answer: %w", url, err)
	}
	t := Transfer{Octets: n, Elapsed: time.Since(start), SHA256: hex.EncodeToString(body.Sum())}
	if string(answer) != t.SHA256 {
		return t, fmt.Errorf("upload %s: the server got SHA-256 %s, sent was %s", url, answer, t.SHA256)
	}
	return t, nil
}
