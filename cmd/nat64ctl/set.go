package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"handoff64/cmd/nat64d/control"
)

const setHelp = `Changes KEY of the configuration in the running nat64d until the next reload or
restart. KEY is the path of the key in the file, VALUE what the file would have
there (quotes of a string may be left out); it is checked as the file is. When the
command returns, all workers follow.

  nat64ctl set lowest_ipv6_mtu 1400
  nat64ctl set filtering address-dependent
  nat64ctl set deny_ipv4 '["10.0.0.0/8", "192.168.0.0/16"]'
  nat64ctl set timeouts.udp 2m

Without VALUE it shows what KEY holds; without KEY every key that differs from
the file as it was last read, because it was set or because it takes a restart.

  --all   every key; CHANGE says what a change of it takes: live (set), reload, or restart
`

const reloadHelp = `Reads the configuration file anew, as SIGHUP does. A file with anything wrong in it
changes nothing, and everything that is wrong is printed (exit code 2). Otherwise all
that can be changed while packets flow is applied, what was set by nat64ctl set is
forgotten, and keys whose change takes a restart are named. Mappings made by
nat64ctl bib add stay.
`

func (r *request) set(ctx context.Context, p *program) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	switch {
	case len(r.words) == 2 && !r.all:
		c, err := p.client.Set(ctx, r.words[0], r.words[1])
		if err != nil {
			return err
		}
		if p.json {
			return p.printJSON(c)
		}
		if len(c.Applied) == 0 {
			fmt.Fprintf(p.out, "%s is that already\n", r.words[0])
		}
		return p.printChanged(&c)
	case len(r.words) > 1 || r.all && len(r.words) > 0:
		return usagef("give set KEY VALUE, set KEY, or set [--all] (see nat64ctl set --help)")
	}
	s, err := p.client.Settings(ctx)
	if err != nil {
		return err
	}
	if len(r.words) == 1 {
		return p.printSetting(&s, r.words[0])
	}
	if !r.all {
		s.Keys = slices.DeleteFunc(s.Keys, func(k control.Setting) bool { return !k.Differs })
	}
	if p.json {
		return p.printJSON(s)
	}
	return p.printSettings(&s, r.all)
}

func (p *program) printSetting(s *control.Settings, key string) error {
	i := slices.IndexFunc(s.Keys, func(k control.Setting) bool { return k.Key == key })
	if i < 0 {
		return usagef("%q is no key of the configuration; nat64ctl set --all shows them", key)
	}
	if p.json {
		return p.printJSON(s.Keys[i])
	}
	_, err := fmt.Fprintln(p.out, valueText(s.Keys[i].Value))
	return err
}

func (p *program) printSettings(s *control.Settings, all bool) error {
	if len(s.Keys) == 0 {
		_, err := fmt.Fprintf(p.out, "everything is as in %s\n", s.File)
		return err
	}
	heads := []string{"KEY", "RUNNING", s.File}
	if all {
		heads = []string{"KEY", "CHANGE", "RUNNING", s.File}
	}
	t := newTable(p.out, heads...)
	for _, k := range s.Keys {
		file := valueText(k.File)
		if !k.Differs && all {
			file = "" // so that what differs is seen
		} else if k.Takes == "restart" && !all {
			file += " (takes a restart)"
		}
		row := []string{k.Key, valueText(k.Value), file}
		if all { // before the values, which may be long
			row = slices.Insert(row, 1, k.Takes)
		}
		t.row(row...)
	}
	return t.close()
}

func (r *request) reload(ctx context.Context, p *program) error {
	if err := r.noWords("reload"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	c, err := p.client.Reload(ctx)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(c)
	}
	if len(c.Applied)+len(c.Restart) == 0 {
		fmt.Fprintln(p.out, "nothing has changed")
	}
	return p.printChanged(&c)
}

// printChanged says what became of a change, a line for each key.
func (p *program) printChanged(c *control.Changed) error {
	for _, k := range c.Applied {
		fmt.Fprintf(p.out, "%s: %s -> %s\n", k.Key, valueText(k.From), valueText(k.To))
	}
	for _, k := range c.Restart {
		fmt.Fprintf(p.out, "%s: takes a restart of nat64d (running %s, file %s)\n", k.Key, valueText(k.From), valueText(k.To))
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(p.out, "warning: %s\n", w)
	}
	return nil
}

// valueText shows a value as one would write it behind set.
func valueText(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		if v == "" {
			return `""`
		}
		return v
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
