package xsk

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/asavie/xdp"
)

// filter is the filter program of one interface with its maps. xdp.Program
// carries what every AF_XDP program has (the program, its sockets, its queues),
// the other maps are ours. Not safe for concurrent use: Device serialises.
type filter struct {
	xdp     *xdp.Program
	maps    filterMaps
	foreign bool // xdp comes from Config.Program, and maps is empty

	mac            [6]byte
	serve6, serve4 bool

	config   FilterConfig
	prefixes map[netip.Prefix]filterPool4Sets // what the pool4 trie holds
	sets     map[portSet]uint32               // index in port_sets by content
	statics  map[Static]bool                  // what the statics map holds
}

// spareSets is how many different port sets more than at the start a later
// configuration may have: the kernel's array cannot grow.
const spareSets = 16

// loadFilterProgram loads the program for an interface of the given number of
// queues and fills its maps. Nothing is attached yet.
func loadFilterProgram(cfg FilterConfig, queues int, mac [6]byte, serve6, serve4 bool) (*filter, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	spec, err := loadFilter()
	if err != nil {
		return nil, fmt.Errorf("xsk: parse the embedded filter: %w", err)
	}
	spec.Maps[filterMapXsks].MaxEntries = uint32(queues)
	spec.Maps[filterMapQueues].MaxEntries = uint32(queues)
	pools := mergePools(cfg.Pool4, cfg.Statics)
	spec.Maps[filterMapPortSets].MaxEntries = uint32(1 + len(distinctSets(pools)) + spareSets)

	var objs filterObjects
	if err := spec.LoadAndAssign(&objs, nil); err != nil {
		return nil, fmt.Errorf("xsk: load the filter program (needs CAP_BPF and CAP_NET_ADMIN; before Linux 5.11 also RLIMIT_MEMLOCK): %w", err)
	}
	f := &filter{
		xdp:  &xdp.Program{Program: objs.Handoff64Xdp, Queues: objs.Queues, Sockets: objs.Xsks},
		maps: objs.filterMaps, mac: mac, serve6: serve6, serve4: serve4,
		prefixes: map[netip.Prefix]filterPool4Sets{},
		sets:     map[portSet]uint32{},
		statics:  map[Static]bool{},
	}
	if err := f.update(cfg); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// update makes the running filter follow cfg. New sets are written before a
// prefix points to them, and only over sets that none points to, so that each
// packet meets the old rules or the new ones.
func (f *filter) update(cfg FilterConfig) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	pools := mergePools(cfg.Pool4, cfg.Statics)
	if err := f.writeSets(distinctSets(pools)); err != nil {
		return err
	}
	if err := f.writeStatics(cfg.Statics); err != nil {
		return err
	}
	if err := f.writePrefixes(pools); err != nil {
		return err
	}
	f.config = cfg
	return f.writeSettings()
}

func (f *filter) writeSettings() error {
	if err := f.maps.Settings.Put(uint32(0), f.config.settings(f.mac, f.serve6, f.serve4)); err != nil {
		return fmt.Errorf("xsk: write the filter's settings: %w", err)
	}
	return nil
}

// writeSets gives every set that is not in the kernel yet a free index.
func (f *filter) writeSets(wanted map[portSet]bool) error {
	used := make(map[uint32]bool, len(f.sets))
	for _, p := range f.prefixes {
		used[p.Tcp], used[p.Udp], used[p.Icmp] = true, true, true
	}
	for set, index := range f.sets {
		if !used[index] {
			delete(f.sets, set) // of an earlier configuration, or of one that failed
		}
	}
	next := uint32(0)
	for set := range wanted {
		if _, ok := f.sets[set]; ok {
			continue
		}
		for used[next] {
			next++
		}
		if next >= f.maps.PortSets.MaxEntries() {
			return fmt.Errorf("xsk: more than %d different port sets in pool4: restart to take up this configuration", next)
		}
		if err := f.maps.PortSets.Put(next, filterPortSet{Bits: set}); err != nil {
			return fmt.Errorf("xsk: write port set %d to the filter: %w", next, err)
		}
		f.sets[set] = next
		used[next] = true
	}
	return nil
}

func (f *filter) writePrefixes(pools []*poolSets) error {
	keep := make(map[netip.Prefix]bool, len(pools))
	for _, p := range pools {
		keep[p.prefix] = true
		value := filterPool4Sets{Tcp: f.sets[p.tcp], Udp: f.sets[p.udp], Icmp: f.sets[p.icmp]}
		if old, ok := f.prefixes[p.prefix]; ok && old == value {
			continue
		}
		if err := f.maps.Pool4.Put(pool4Key(p.prefix), value); err != nil {
			return fmt.Errorf("xsk: add pool4 prefix %v to the filter: %w", p.prefix, err)
		}
		f.prefixes[p.prefix] = value
	}
	for p := range f.prefixes {
		if keep[p] {
			continue
		}
		if err := f.maps.Pool4.Delete(pool4Key(p)); err != nil {
			return fmt.Errorf("xsk: remove pool4 prefix %v from the filter: %w", p, err)
		}
		delete(f.prefixes, p)
	}
	return nil
}

// writeStatics adds what is new and then removes what is no longer wanted.
func (f *filter) writeStatics(wanted []Static) error {
	keep := make(map[Static]bool, len(wanted))
	for _, s := range wanted {
		keep[s] = true
		if f.statics[s] {
			continue
		}
		if err := f.maps.Statics.Put(s.key(), uint8(1)); err != nil {
			return fmt.Errorf("xsk: add static mapping %v to the filter: %w", s.Addr, err)
		}
		f.statics[s] = true
	}
	for s := range f.statics {
		if keep[s] {
			continue
		}
		if err := f.maps.Statics.Delete(s.key()); err != nil {
			return fmt.Errorf("xsk: remove static mapping %v from the filter: %w", s.Addr, err)
		}
		delete(f.statics, s)
	}
	return nil
}

// addStatic and removeStatic change one static mapping. Both are idempotent.
func (f *filter) addStatic(s Static) error {
	if f.statics[s] {
		return nil
	}
	cfg := f.config
	cfg.Statics = append(slices.Clone(cfg.Statics), s)
	return f.update(cfg)
}

func (f *filter) removeStatic(s Static) error {
	cfg := f.config
	cfg.Statics = slices.DeleteFunc(slices.Clone(cfg.Statics), func(have Static) bool { return have == s })
	return f.update(cfg)
}

// close frees program and maps; an attached program stays with its interface.
func (f *filter) close() error {
	if f.foreign {
		return f.xdp.Close()
	}
	// xdp.Program.Close would do half of this, naming maps that are not these.
	return errors.Join(f.xdp.Program.Close(), f.maps.Close())
}

func (s Static) key() filterStaticKey {
	return filterStaticKey{Addr: addrWord(s.Addr.Addr()), Port: s.Addr.Port(), Proto: uint8(s.Proto)}
}

func pool4Key(p netip.Prefix) filterPool4Key {
	return filterPool4Key{PrefixLen: uint32(p.Bits()), Addr: addrWord(p.Addr())}
}

func distinctSets(pools []*poolSets) map[portSet]bool {
	sets := map[portSet]bool{}
	for _, p := range pools {
		sets[p.tcp], sets[p.udp], sets[p.icmp] = true, true, true
	}
	return sets
}
