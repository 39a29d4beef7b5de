package main

import (
	"context"
	"time"

	"handoff64/cmd/nat64d/natlog"
	"handoff64/dataplane"
)

// newWriter makes the log of sessions and port blocks, and the rings into it.
func (d *daemon) newWriter(t *translator, workers int) (*natlog.Writer, error) {
	for range workers {
		t.logs = append(t.logs, dataplane.NewLog())
	}
	w, err := natlog.New(natlog.Config{Logs: t.logs, Lines: d.log.Handler(), Pool6: t.rules.Pool6, Collector: d.cfg.Log.IPFIX})
	if err != nil {
		return nil, err
	}
	w.Destinations(d.cfg.Log.Destinations)
	return w, nil
}

// startWriter runs the writer until stop is called, which returns when all is
// written. The workers have stopped by then.
func (d *daemon) startWriter(t *translator) (stop func()) {
	t.writer.Kept(t.table, time.Now())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.writer.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}
