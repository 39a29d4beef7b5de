package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"handoff64/cmd/commandline"
	"handoff64/cmd/nat64d/config"
	"handoff64/cmd/nat64d/control"
	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/handoff"
	"handoff64/ring/xsk"
)

// This file is the daemon as nat64ctl sees it. Everything is read through
// atomics; no worker waits for it.

var errNotReady = errors.New("nat64d is still starting")

// Status implements control.Daemon.
func (d *daemon) Status() control.Status {
	s := control.Status{
		Version: commandline.Version(version), UptimeS: time.Since(d.start).Seconds(), Pool6: d.cfg.Pool6, Differs: []string{},
		Sessions: control.Usage{Capacity: d.cfg.Limits.Sessions},
	}
	for _, p := range d.cfg.Pool4 {
		s.Pool4 = append(s.Pool4, control.Pool4{Address: poolAddress(p), Ports: config.FormatRanges(p.Ports)})
	}
	for _, v := range d.Settings().Keys {
		if v.Differs {
			s.Differs = append(s.Differs, v.Key)
		}
	}
	t := d.run.Load()
	if t == nil {
		return s
	}
	s.Ready = true
	ipv6, ipv4 := t.device.Info()
	s.Interfaces = control.Interfaces{IPv6: interfaceStatus(ipv6), IPv4: interfaceStatus(ipv4)}
	for i, cpu := range t.cpus {
		s.Workers = append(s.Workers, control.Worker{CPU: cpu, Queue: i})
	}
	stats := t.table.Stats()
	s.Sessions.Used = int(stats.Used)
	s.BIB.Used = int(stats.BIB + stats.Statics)
	limits := t.table.ClientLimits()
	s.PortBlocks = control.PortBlocks{Size: d.cfg.PortBlocks.Size, Assigned: int(stats.Blocks)}
	s.Clients = control.Clients{Counted: int(stats.Clients), SessionLimit: limits.Sessions, PortLimit: limits.Ports}
	s.Handoff = control.HandoffStatus{Enabled: t.handoff != nil, CachedEntries: int(stats.Entries)}
	if t.handoff != nil {
		t.handoff.ServersInfo(func(i handoff.ServerInfo) bool {
			if i.State == conntrack.ServerHandoff {
				s.Handoff.Servers++
			}
			return true
		})
	}
	return s
}

func interfaceStatus(i xsk.Interface) control.Interface {
	return control.Interface{Name: i.Name, XDPMode: string(i.Mode), ZeroCopy: i.ZeroCopy, Queues: i.Queues}
}

func poolAddress(p config.Pool4) string {
	if p.Addresses() == 1 {
		return p.Prefix.Addr().String()
	}
	return p.Prefix.String()
}

// Stats implements control.Daemon.
func (d *daemon) Stats() control.Stats {
	var c dataplane.Counters
	var table conntrack.Stats
	t := d.run.Load()
	if t != nil {
		c, table = dataplane.Totals(t.workers), t.table.Stats()
	}
	s := statsOf(&c, &table)
	if t != nil {
		s.Lost, s.TUN, s.Workers = t.lost(), t.tunCounts(), t.workerCounts()
		s.Log = control.LogCounts{Written: t.writer.Written(), Lost: t.writer.Lost() + t.table.Stats().EventsLost}
	}
	if t != nil && t.handoff != nil {
		t.addHandoff(&s)
	}
	return s
}

// statsOf gives the counters of workers and table the form that nat64ctl shows.
func statsOf(c *dataplane.Counters, table *conntrack.Stats) control.Stats {
	s := control.Stats{Drops: map[string]uint64{}}
	s.Sessions = control.SessionCounts{Created: table.Created, Expired: table.Expired}
	s.RX = traffic(c.RxPackets, c.RxBytes)
	s.TX = traffic(c.TxPackets, c.TxBytes)
	s.Translated = control.Translated{
		V6ToV4: c.Translated[dataplane.V6ToV4], V4ToV6: c.Translated[dataplane.V4ToV6], Hairpin: c.Translated[dataplane.Hairpin],
	}
	s.Passed = control.PerSide{IPv6: c.Passed[dataplane.IPv6], IPv4: c.Passed[dataplane.IPv4]}
	s.Parked, s.Generated = c.Parked, c.Generated
	dataplane.EachReason(func(r dataplane.DropReason, row dataplane.Reason) { s.Drops[row.Name] = c.Drops[r] })
	return s
}

// workerCounts is what each worker received and dropped.
func (t *translator) workerCounts() (all []control.WorkerCounts) {
	for _, w := range t.workers {
		c := w.Counters()
		n := control.WorkerCounts{Received: c.RxPackets[dataplane.IPv6] + c.RxPackets[dataplane.IPv4]}
		for _, d := range c.Drops {
			n.Dropped += d
		}
		all = append(all, n)
	}
	return all
}

// lost sums up what the kernel could not hand to the workers. A socket that does
// not answer is being closed.
func (t *translator) lost() (lost control.PerSide) {
	ipv6, _ := t.device.Info()
	for _, s := range t.device.Sockets() {
		k, err := s.Stats()
		if err != nil {
			continue
		}
		n := k.RXLost()
		if s.Link() == ipv6.Name {
			lost.IPv6 += n
		} else {
			lost.IPv4 += n
		}
	}
	return lost
}

// tunCounts is what went wrong at the TUN device. One that does not answer is
// being closed.
func (t *translator) tunCounts() (c control.TUNCounts) {
	if t.tun == nil {
		return c
	}
	c.Lost, _ = t.tun.Lost()
	for _, p := range t.tun.Ports() {
		n, _ := p.Errors()
		c.Errors += n
	}
	return c
}

// strangerReason is the one drop that happens behind the workers: they count a
// packet that they give to the handoff worker as passed on.
var strangerReason = dataplane.Reason{
	Name: "stranger_limited", Step: "handoff",
	Sentence: "A packet of a host that nobody has checked was not sent back: the limit on such answers.", Section: "handoff draft §9, §12",
}

// addHandoff completes the counters with those of the handoff worker.
func (t *translator) addHandoff(s *control.Stats) {
	h, stats := t.handoff.Stats(), t.table.Stats()
	s.Handoff = control.HandoffCounts{
		Notifications: h.Notifications, Queries: h.Queries, Replies: h.Replies, EntriesCached: stats.Cached,
		EntriesPurged: stats.Purged, Tunnelled: h.Tunnelled, Invalid: h.Invalid,
	}
	s.Drops[strangerReason.Name] = h.Limited
	fromIPv4 := min(h.Limited, s.Passed.IPv4)
	s.Passed.IPv4 -= fromIPv4
	s.Passed.IPv6 -= min(h.Limited-fromIPv4, s.Passed.IPv6)
}

// Servers implements control.Daemon.
func (d *daemon) Servers(yield func(control.HandoffServer) bool) {
	t := d.run.Load()
	if t == nil || t.handoff == nil {
		return
	}
	t.handoff.ServersInfo(func(i handoff.ServerInfo) bool {
		s := control.HandoffServer{Server: i.Server, State: i.State.String(), Entries: i.Entries}
		if !i.LastHeard.IsZero() {
			ago := time.Since(i.LastHeard).Seconds()
			s.LastHeardS = &ago
		}
		return yield(s)
	})
}

// flushPatience is how long Flush waits for the workers, who do it bit by bit.
const flushPatience = 5 * time.Second

// Flush implements control.Daemon.
func (d *daemon) Flush(handoffOnly bool) error {
	t := d.run.Load()
	if t == nil {
		return errNotReady
	}
	done := t.table.Flush
	if handoffOnly {
		done = t.table.FlushHandoff
	}
	done()
	return t.sweep()
}

// sweep waits until the workers have carried out all that was removed.
func (t *translator) sweep() error {
	for deadline := time.Now().Add(flushPatience); !t.table.Swept(); time.Sleep(time.Millisecond) {
		for _, w := range t.workers {
			w.Wake()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the workers are still at it after %v", flushPatience)
		}
	}
	return nil
}

func traffic(packets, octets [2]uint64) control.Traffic {
	return control.Traffic{
		IPv6: control.Counter{Packets: packets[dataplane.IPv6], Bytes: octets[dataplane.IPv6]},
		IPv4: control.Counter{Packets: packets[dataplane.IPv4], Bytes: octets[dataplane.IPv4]},
	}
}

// DropReasons implements control.Daemon.
func (d *daemon) DropReasons() []control.DropReason {
	counts := d.Stats().Drops
	var out []control.DropReason
	dataplane.EachReason(func(_ dataplane.DropReason, row dataplane.Reason) {
		out = append(out, control.DropReason{
			Name: row.Name, Count: counts[row.Name], Step: row.Step, Sentence: row.Sentence, Section: row.Section,
		})
	})
	if d.cfg.Handoff.Enabled {
		row := strangerReason
		out = append(out, control.DropReason{
			Name: row.Name, Count: counts[row.Name], Step: row.Step, Sentence: row.Sentence, Section: row.Section,
		})
	}
	return out
}

// Sessions implements control.Daemon.
func (d *daemon) Sessions(_ control.SessionFilter, yield func(control.Session) bool) {
	t := d.run.Load()
	if t == nil {
		return
	}
	now := d.clock()
	t.table.Sessions(func(i conntrack.SessionInfo) bool {
		return i.Key.Proto == conntrack.Entry || yield(t.session(&i, now)) // entries are no sessions: status counts them
	})
}

func (t *translator) session(i *conntrack.SessionInfo, now conntrack.Tick) control.Session {
	k := &i.Key
	s := control.Session{
		Protocol: k.Proto.String(),
		Client:   netip.AddrPortFrom(netip6(k.Client.Hi, k.Client.Lo), k.ClientPort),
		Mapped:   mappedPort(i.Mapped, i.MappedPort),
		Server4:  mappedPort(k.Server, k.ServerPort),
		State:    i.State.String(), Origin: i.Origin.String(),
	}
	idle := now - min(i.LastUsed, now)
	s.IdleS, s.ExpiresS = seconds(idle), seconds(i.Lifetime-min(idle, i.Lifetime))
	if int(k.Pool6) < len(t.rules.Pool6) {
		hi, lo := t.rules.Pool6[k.Pool6].Embed(k.Server)
		s.Server6 = netip.AddrPortFrom(netip6(hi, lo), k.ServerPort)
	}
	return s
}

func seconds(t conntrack.Tick) float64 { return float64(t) / conntrack.TicksPerSecond }

// BIB implements control.Daemon.
func (d *daemon) BIB(yield func(control.BIBEntry) bool) {
	t := d.run.Load()
	if t == nil {
		return
	}
	t.table.BIB(func(i conntrack.BIBInfo) bool {
		// A dynamic mapping of a port has no protocol: it serves both.
		protocol := "tcp+udp"
		if i.Proto != 0 {
			protocol = i.Proto.String()
		}
		return yield(control.BIBEntry{
			Protocol: protocol, Client: netip.AddrPortFrom(netip6(i.Client.Hi, i.Client.Lo), i.ClientPort),
			Mapped: mappedPort(i.Mapped, i.MappedPort), Static: i.IsStatic, Sessions: int(i.Sessions),
		})
	})
}

// AddBIB implements control.Daemon. The filter learns of the mapping last, so
// that no packet comes for a mapping that is not there.
func (d *daemon) AddBIB(proto string, client, mapped netip.AddrPort) error {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	t, err := d.translator()
	if err != nil {
		return err
	}
	if !client.Addr().Is6() || !mapped.Addr().Is4() {
		return fmt.Errorf("a mapping goes from an IPv6 to an IPv4 transport address, not from %s to %s", client, mapped)
	}
	if !t.rules.Pool4.Contains(addr4(mapped.Addr())) {
		return fmt.Errorf("%s is not a pool4 address", mapped.Addr())
	}
	if h := d.cfg.Handoff; h.Enabled && proto == "udp" && int(mapped.Port()) == h.ClientPort {
		return fmt.Errorf("UDP port %d is that of the control channel (handoff.client_port)", mapped.Port())
	}
	st := conntrack.Static{
		Proto: protoFrom(proto), Client: addr6(client.Addr()), ClientPort: client.Port(),
		Mapped: addr4(mapped.Addr()), MappedPort: mapped.Port(),
	}
	if err := t.table.AddStatic(st); err != nil {
		return err
	}
	if err := t.device.AddStatic(xsk.Static{Proto: xsk.Proto(st.Proto), Addr: mapped}); err != nil {
		return errors.Join(err, t.table.RemoveStatic(st.Proto, st.Mapped, st.MappedPort))
	}
	d.log.Info("static mapping added", "mapping", st)
	return nil
}

// RemoveBIB implements control.Daemon.
func (d *daemon) RemoveBIB(proto string, mapped netip.AddrPort) error {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	t, err := d.translator()
	if err != nil {
		return err
	}
	if !mapped.Addr().Is4() {
		return fmt.Errorf("%s is not an IPv4 transport address", mapped)
	}
	p := protoFrom(proto)
	if err := t.table.RemoveStatic(p, addr4(mapped.Addr()), mapped.Port()); err != nil {
		return err
	}
	d.log.Info("static mapping removed", "protocol", proto, "mapped", mapped)
	return t.device.RemoveStatic(xsk.Static{Proto: xsk.Proto(p), Addr: mapped})
}
