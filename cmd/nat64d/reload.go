package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"handoff64/cmd/nat64d/config"
	"handoff64/cmd/nat64d/control"
)

// Settings implements control.Daemon.
func (d *daemon) Settings() control.Settings {
	now, file := d.settings.now.Load().Values(), d.settings.file.Load().Values()
	s := control.Settings{File: d.file}
	for i, v := range now {
		s.Keys = append(s.Keys, control.Setting{
			Key: v.Path, Value: v.Value, File: file[i].Value, Takes: v.Takes.String(), Differs: !reflect.DeepEqual(v.Value, file[i].Value),
		})
	}
	return s
}

// Set implements control.Daemon.
func (d *daemon) Set(by, key, value string) (control.Changed, error) {
	s := &d.settings
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := d.translator()
	if err != nil {
		return control.Changed{}, err
	}
	text, err := s.text.Set(key, value)
	if err != nil {
		return control.Changed{}, control.ConfigError{Problems: []string{err.Error()}}
	}
	c, problems := text.Parse()
	if len(problems) > 0 {
		return control.Changed{}, configError(problems, config.Problem.Message)
	}
	before := s.now.Load()
	if err := d.apply(t, c, staticChange{}); err != nil {
		return control.Changed{}, err
	}
	s.text = text
	answer := control.Changed{Warnings: newWarnings(c, before)}
	answer.Applied = d.tell(by, c, before)
	return answer, nil
}

// Reload implements control.Daemon: the file is read anew, and what is live is
// applied. A bad file changes nothing.
func (d *daemon) Reload(by string) (control.Changed, error) {
	s := &d.settings
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := d.translator()
	if err != nil {
		return control.Changed{}, err
	}
	d.notifyReloading()
	// Without systemd there is nobody to tell, which is no error.
	defer func() { _, _ = systemd.SdNotify(false, systemd.SdNotifyReady) }()
	answer, err := d.reload(by, t)
	if err != nil {
		d.log.Error("the configuration is not reloaded, nothing has changed", "by", by, "file", d.file, "error", err)
	}
	return answer, err
}

func (d *daemon) reload(by string, t *translator) (control.Changed, error) {
	s := &d.settings
	data, err := os.ReadFile(d.file)
	if err != nil {
		return control.Changed{}, control.ConfigError{Problems: []string{"configuration: " + err.Error()}}
	}
	text := config.NewDocument(d.file, data)
	file, problems := text.Parse()
	if len(problems) > 0 {
		return control.Changed{}, configError(problems, config.Problem.Error)
	}
	before := s.now.Load()
	var answer control.Changed
	var kept []string
	for _, v := range file.Changed(before) {
		if v.Takes == config.Restart {
			kept = append(kept, v.Path)
		}
	}
	if text, err = text.Keep(kept, before); err != nil {
		return control.Changed{}, err
	}
	// What the file says must also fit what it can change only by a restart.
	c, problems := text.Parse()
	if len(problems) > 0 {
		return control.Changed{}, configError(problems, func(p config.Problem) string {
			return fmt.Sprintf("%s: %s; this takes a restart of nat64d together with %v", d.file, p.Message(), kept)
		})
	}
	if err := d.apply(t, c, changeOfStatics(s.file.Load(), file, t.table.Statics())); err != nil {
		return control.Changed{}, err
	}
	s.text = text
	s.file.Store(file)
	answer.Applied = d.tell(by, c, before)
	answer.Restart = changes(file, c)
	for _, r := range answer.Restart {
		d.log.Warn("a change of the configuration takes a restart of nat64d", "key", r.Key, "running", compact(r.From), "file", compact(r.To))
	}
	for _, w := range file.Warnings {
		answer.Warnings = append(answer.Warnings, w.Error())
	}
	d.log.Info("configuration reloaded", "by", by, "file", d.file, "applied", len(answer.Applied), "restart", len(answer.Restart))
	return answer, nil
}

// tell writes the audit log: a line for each change, and who made it.
func (d *daemon) tell(by string, now, before *config.Config) []control.Change {
	all := changes(now, before)
	for _, c := range all {
		d.log.Info("configuration changed", "by", by, "key", c.Key, "from", compact(c.From), "to", compact(c.To))
	}
	return all
}

// changes lists what differs, key by key.
func changes(now, before *config.Config) []control.Change {
	out := []control.Change{}
	was := map[string]any{}
	for _, v := range before.Values() {
		was[v.Path] = v.Value
	}
	for _, v := range now.Changed(before) {
		out = append(out, control.Change{Key: v.Path, From: was[v.Path], To: v.Value})
	}
	return out
}

// newWarnings are those that a change has brought about.
func newWarnings(c, before *config.Config) (out []string) {
	had := map[string]bool{}
	for _, w := range before.Warnings {
		had[w.Message()] = true
	}
	for _, w := range c.Warnings {
		if m := w.Message(); !had[m] {
			out = append(out, m)
		}
	}
	return out
}

func configError(problems []config.Problem, text func(config.Problem) string) control.ConfigError {
	var e control.ConfigError
	for _, p := range problems {
		e.Problems = append(e.Problems, text(p))
	}
	return e
}

// compact is a value of the configuration on one line.
func compact(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// notifyReloading tells systemd that a reload has begun, and when (sd_notify(3)).
func (d *daemon) notifyReloading() {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return // every kernel has it
	}
	_, _ = systemd.SdNotify(false, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", systemd.SdNotifyReloading, ts.Nano()/int64(time.Microsecond)))
}

// reloadOnHangup does on SIGHUP what nat64ctl reload does. Its problems go to
// the log.
func (d *daemon) reloadOnHangup() (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range c {
			_, _ = d.Reload("SIGHUP") // it logs what is wrong
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
		<-done
	}
}
