package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"handoff64/tools/lab"
)

// accessLog serves HTTP in the server, logs in the combined format with the port,
// and returns the log and a client whose every request is a connection of its
// own.
func (w *world) accessLog() (file string, get func(path string) (client string)) {
	w.t.Helper()
	file = filepath.Join(w.t.TempDir(), "access.log")
	out, err := os.Create(file)
	w.must(err)
	w.t.Cleanup(func() { out.Close() })
	var mu sync.Mutex
	l, err := w.server.Listen("tcp4", netip.AddrPortFrom(w.Server(), 8081).String())
	w.must(err)
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, "%s - - [%s] \"%s %s %s\" 200 0 \"-\" \"%s\"\n",
			r.RemoteAddr, time.Now().Format("02/Jan/2006:15:04:05 -0700"), r.Method, r.URL.Path, r.Proto, r.UserAgent())
	})}
	go srv.Serve(l)
	w.t.Cleanup(func() { srv.Close() })
	return file, func(path string) (client string) {
		w.t.Helper()
		t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := w.client.DialContext(ctx, network, address)
			if err == nil {
				client = c.LocalAddr().String()
			}
			return c, err
		}}
		resp, err := (&http.Client{Transport: t}).Get("http://" + w.embedded(8081) + path)
		w.must(err)
		w.must(resp.Body.Close())
		return client
	}
}

// The owner of a server reads in an access log who its clients were: while they
// are connected or long after, with handoffd running or not.
func TestHandoffAnnotate(t *testing.T) {
	t.Parallel()
	for mode, args := range map[string][]string{"minimal": nil, "local-nat": {"--mode", "local-nat"}, "mixed, log as JSON": {"--mode", "mixed", "--log-format", "json"}} {
		t.Run(mode, func(t *testing.T) {
			w := plain(t)
			h := w.adoptedAs(args...)
			file, get := w.accessLog()
			clients := make(map[string]string) // by path
			for i := range 20 {
				path := fmt.Sprintf("/%d", i)
				clients[path] = get(path)
			}
			w.annotated(h, file, clients)
			w.annotated(h, file, clients, "--by", "table")
			w.must(h.Stop())
			w.annotated(h, file, clients)
			w.afterStop(h, file)
		})
	}
}

// afterStop expects that lines of a time after handoffd has stopped have nobody
// who is known.
func (w *world) afterStop(h *lab.Handoffd, file string) {
	w.t.Helper()
	b, err := os.ReadFile(file)
	w.must(err)
	line, _, _ := strings.Cut(string(b), "\n")
	begin, end := strings.IndexByte(line, '['), strings.Index(line, "] \"")
	line = line[:begin+1] + time.Now().Add(time.Hour).Format("02/Jan/2006:15:04:05 -0700") + line[end:]
	cmd := exec.CommandContext(w.ctx, built.Handoffd, "annotate", "--state-dir", h.StateDir())
	cmd.Stdin = strings.NewReader(line)
	if out, err := cmd.Output(); err != nil || string(out) != line+" client=?" {
		w.t.Errorf("an hour after the end: %q (%v)", out, err)
	}
}

// annotated expects that each line of an access log gets its client.
func (w *world) annotated(h *lab.Handoffd, file string, clients map[string]string, args ...string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.ctx, built.Handoffd, append([]string{"annotate", "--state-dir", h.StateDir(), "--json", file}, args...)...)
	var summary bytes.Buffer
	cmd.Stderr = &summary
	out, err := cmd.Output()
	w.must(err)
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(clients) || !strings.Contains(summary.String(), fmt.Sprintf(`"found":%d,`, len(clients))) {
		w.t.Errorf("annotate %v: %d lines, want %d; %s", args, len(lines), len(clients), &summary)
	}
	for _, line := range lines {
		_, path, _ := strings.Cut(line, `"GET `)
		path, _, _ = strings.Cut(path, " ")
		if want := " client=" + clients[path]; !strings.HasSuffix(line, want) {
			w.t.Errorf("annotate %v: %q, want %q at its end; %s", args, line, want, &summary)
		}
	}
}

// The example of a program that asks handoffd itself, through both its sockets.
func TestHandoffExampleServer(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "example")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "../../../handoff/client/example").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	w := plain(t)
	h := w.adoptedAs("--http", ":9465")
	for listen, target := range map[string]string{"8082": filepath.Join(h.StateDir(), "lookup.sock"), "8083": "http://127.0.0.1:9465"} {
		cmd := exec.CommandContext(w.ctx, program, "--listen", ":"+listen, "--handoffd", target)
		w.must(w.server.Start(cmd))
		w.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) // it has served by then
		w.eventually("the example says who the client is at port "+listen, 20*time.Second, func() error {
			var local string
			t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := w.client.DialContext(ctx, network, address)
				if err == nil {
					local = c.LocalAddr().String()
				}
				return c, err
			}}
			resp, err := (&http.Client{Transport: t, Timeout: 5 * time.Second}).Get("http://[" + lab.Embed(w.Server()).String() + "]:" + listen + "/")
			if err != nil {
				return err // it may not listen yet
			}
			defer resp.Body.Close()
			var got bytes.Buffer
			if _, err := got.ReadFrom(resp.Body); err != nil {
				return err
			}
			if want := "You are " + local + ".\n"; got.String() != want {
				w.t.Errorf("port %s: %q, want %q", listen, &got, want)
			}
			return nil
		})
	}
}
