package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"handoff64/tools/lab"
)

// certificate makes one for an address, and writes it where curl reads it.
func certificate(t *testing.T, addr netip.Addr) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"}, IPAddresses: []net.IP{addr.AsSlice()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "lab.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// secureWeb serves HTTP/2 and HTTP/1.1 over TLS until the test ends: GET ?n=N
// answers with N octets, POST with how many came.
func (w *world) secureWeb(h lab.Host, address string, cert tls.Certificate) {
	w.t.Helper()
	l, err := h.Listen("tcp", address)
	w.must(err)
	server := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, Handler: http.HandlerFunc(answerWeb)}
	go func() { _ = server.ServeTLS(l, "", "") }() // until Close; what a client misses, the client reports
	w.t.Cleanup(func() { server.Close() })
}

func answerWeb(rw http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(rw, "%d %v", n, err)
		return
	}
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil {
		http.Error(rw, "n must be a number of octets", http.StatusBadRequest)
		return
	}
	rw.Header().Set("Content-Length", strconv.Itoa(n))
	// A client that goes away reports it itself.
	_, _ = rw.Write(make([]byte, n))
}

// curl speaks HTTP/1.1 and HTTP/2 over TLS, from the client to the server and
// from the server to the client, down, up, and several at once.
func TestProgramCurlVersions(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	w := judged(t, lab.Options{}, static("tcp", 443, 443))
	body := filepath.Join(t.TempDir(), "body")
	w.must(os.WriteFile(body, noise(3_000_000), 0o644))
	for _, side := range []struct {
		at, from lab.Host
		listen   string
		to       netip.Addr
	}{
		{w.server, w.client, netip.AddrPortFrom(w.Server(), 443).String(), lab.Embed(w.Server())},
		{w.client, w.server, "[::]:443", lab.Pool4},
	} {
		cert, ca := certificate(t, side.to)
		w.secureWeb(side.at, side.listen, cert)
		url := "https://" + netip.AddrPortFrom(side.to, 443).String() + "/"
		curl := func(args ...string) string {
			t.Helper()
			common := []string{"--silent", "--show-error", "--globoff", "--cacert", ca, "--max-time", "60"}
			return w.output(side.from, "curl", append(common, args...)...)
		}
		for option, version := range map[string]string{"--http1.1": "1.1", "--http2": "2"} {
			if out := curl(option, "--output", "/dev/null", "--write-out", "%{http_version} %{size_download}", url+"?n=5000000"); out != version+" 5000000" {
				t.Errorf("curl %s from the %s printed %q", option, side.from.Name, out)
			}
			if out := curl(option, "--data-binary", "@"+body, url); out != "3000000 <nil>" {
				t.Errorf("curl %s from the %s, a POST of 3000000 octets: %q", option, side.from.Name, out)
			}
		}
		many := []string{"--http2", "--parallel", "--no-progress-meter", "--write-out", "%{size_download}\n"}
		for i := range 20 {
			many = append(many, "--output", "/dev/null", fmt.Sprintf("%s?n=%d", url, 10_000+i))
		}
		if out := curl(many...); len(out) != 20*len("10000\n") {
			t.Errorf("20 streams of HTTP/2 from the %s: %q", side.from.Name, out)
		}
	}
}
