package lab

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctlPath turns "ipv6/conf/eth0/forwarding" into a file name. The folder
// shows the settings of the namespace of the thread that opens a file in it,
// so Enter is all it takes to reach the settings of a host.
func sysctlPath(key string) string { return filepath.Join("/proc/sys/net", key) }

// SetSysctl writes one setting of the host; key is relative to /proc/sys/net,
// with slashes.
func (h Host) SetSysctl(key, value string) error {
	err := h.Enter(func() error { return os.WriteFile(sysctlPath(key), []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("host %s: set net/%s to %s: %w", h.Name, key, value, err)
	}
	return nil
}

// Sysctl reads one setting of the host.
func (h Host) Sysctl(key string) (string, error) {
	var value []byte
	err := h.Enter(func() (err error) {
		value, err = os.ReadFile(sysctlPath(key))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("host %s: read net/%s: %w", h.Name, key, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// Sysctls reads every readable setting of the host below the given folders
// (relative to /proc/sys/net), to be compared with a later reading.
func (h Host) Sysctls(folders ...string) (map[string]string, error) {
	all := make(map[string]string)
	read := func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return nil
		}
		// Some settings can only be written, others belong to the machine
		// and are closed to a namespace: neither says anything here.
		if value, err := os.ReadFile(path); err == nil {
			all[strings.TrimPrefix(path, "/proc/sys/")] = strings.TrimSpace(string(value))
		}
		return nil
	}
	err := h.Enter(func() error {
		for _, folder := range folders {
			if err := filepath.WalkDir(sysctlPath(folder), read); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: read its sysctls: %w", h.Name, err)
	}
	return all, nil
}
