package main

import (
	"flag"
	"sort"
	"strings"

	"github.com/valyala/fastjson"
)

// applyFile sets the flags that a configuration file names, but for those given
// on the command line. Unknown and repeated keys are errors.
func applyFile(path string, fs *flag.FlagSet, given map[string]bool) error {
	data, err := readAll(path)
	if err != nil {
		return err
	}
	var parser fastjson.Parser
	v, err := parser.ParseBytes(data)
	if err != nil {
		return usagef("configuration %s is not JSON: %w", path, err)
	}
	o, err := v.Object()
	if err != nil {
		return usagef("configuration %s must be one JSON object: %w", path, err)
	}
	seen := map[string]bool{}
	o.Visit(func(k []byte, v *fastjson.Value) {
		key := string(k)
		switch {
		case err != nil:
		case seen[key]:
			err = usagef("configuration %s: %q stands there twice", path, key)
		default:
			seen[key] = true
			err = applyKey(path, fs, given, key, v)
		}
	})
	return err
}

func applyKey(path string, fs *flag.FlagSet, given map[string]bool, key string, v *fastjson.Value) error {
	known := fileKeys(fs)
	i := sort.SearchStrings(known, key)
	if i == len(known) || known[i] != key {
		return usagef("configuration %s: key %q is unknown; known are %s: %w", path, key, strings.Join(known, ", "), errFile)
	}
	if given[key] {
		return nil
	}
	text, want := "", "a string"
	switch key {
	case "max-entries-per-nat64", "device-mtu":
		want = "a number"
		if v.Type() == fastjson.TypeNumber {
			text = v.String()
		}
	case "mode-changes":
		want = "true or false"
		if t := v.Type(); t == fastjson.TypeTrue || t == fastjson.TypeFalse {
			text = v.String()
		}
	default:
		if v.Type() == fastjson.TypeString {
			text = string(v.GetStringBytes())
		}
	}
	if text == "" {
		return usagef("configuration %s: %s must be %s, not %s: %w", path, key, want, v, errFile)
	}
	if err := fs.Set(key, text); err != nil {
		return usagef("configuration %s: %s: %w", path, key, err)
	}
	return nil
}

// fileKeys lists what a file may set, in order.
func fileKeys(fs *flag.FlagSet) (keys []string) {
	fs.VisitAll(func(f *flag.Flag) {
		switch f.Name {
		case "config", "help", "h", "version":
		default:
			keys = append(keys, f.Name)
		}
	})
	sort.Strings(keys)
	return keys
}
