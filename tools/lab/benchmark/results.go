package benchmark

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"handoff64/bench/rfc8219"
	"handoff64/bench/rfc9693"
	"handoff64/bench/search"
	"handoff64/tools/lab/compare"
	"handoff64/tools/lab/tunnels"
)

// Header says what a group of results was measured on, and how to do it again.
type Header struct {
	Version string  `json:"version"` // of the code
	Date    string  `json:"date"`    // RFC 3339, UTC
	Command string  `json:"command"`
	CPU     string  `json:"cpu"`
	CPUs    int     `json:"cpus"`
	Kernel  string  `json:"kernel"`
	Go      string  `json:"go"`
	Load    float64 `json:"load_before"` // load average of a minute
	Seconds float64 `json:"seconds"`     // that the group took
}

// Benchmark is a Go benchmark: of each of its units, what its runs gave.
type Benchmark struct {
	Name  string                    `json:"name"` // without "Benchmark" and the number of processors
	Units map[string]compare.Spread `json:"units"`
}

// Benchmarks are the groups memory and sessions.
type Benchmarks struct {
	Header
	Benchmarks []Benchmark `json:"benchmarks"`
}

// unit is what a benchmark gave in a unit; zero if there is none.
func (b *Benchmarks) unit(name, unit string) compare.Spread {
	for i := range b.Benchmarks {
		if b.Benchmarks[i].Name == name {
			return b.Benchmarks[i].Units[unit]
		}
	}
	return compare.Spread{}
}

// Devices is the group devices.
type Devices struct {
	Header
	Compared compare.Results `json:"compared"`
}

// RFC8219 is what pktgen rfc8219 --json prints, as far as it is shown.
type RFC8219 struct {
	Direction   string  `json:"direction"`
	Flows       int     `json:"flows"`
	Loss        float64 `json:"acceptable_loss"`
	Trial       float64 `json:"trial_s"`
	Stream      float64 `json:"stream_s"`
	Repetitions int     `json:"repetitions"`
	Sizes       []struct {
		Size       int                 `json:"size"`
		Throughput *search.Found       `json:"throughput,omitempty"`
		Loss       []rfc8219.LossPoint `json:"frame_loss,omitempty"`
		Latency    *rfc8219.Latency    `json:"latency,omitempty"`
		PDV        *rfc8219.PDV        `json:"pdv,omitempty"`
	} `json:"sizes"`
}

// RFC9693 is what pktgen rfc9693 --json prints, as far as it is shown.
type RFC9693 struct {
	Connections   int               `json:"connections"`
	Protocol      string            `json:"protocol"`
	Validation    float64           `json:"validation"`
	Establishment *search.Found     `json:"establishment,omitempty"`
	TearDown      *rfc9693.TearDown `json:"teardown,omitempty"`
	Capacity      *rfc9693.Capacity `json:"capacity,omitempty"`
}

// RFC is the group rfc.
type RFC struct {
	Header
	RFC8219  []RFC8219 `json:"rfc8219"`  // each direction
	RFC9693  RFC9693   `json:"rfc9693"`  // rates
	Capacity RFC9693   `json:"capacity"` // with a limit of sessions that is Limit
	Limit    int       `json:"limit"`
}

// Tunnels is the group tunnels.
type Tunnels struct {
	Header
	Measured tunnels.Results `json:"measured"`
}

// Results are those of all groups; those that were never measured are nil.
type Results struct {
	Memory, Sessions *Benchmarks
	Devices          *Devices
	RFC              *RFC
	Tunnels          *Tunnels
}

// file is where a group's results are.
func file(dir, group string) string { return filepath.Join(dir, group+".json") }

// Load reads what lies in a folder.
func Load(dir string) (r Results, err error) {
	return r, errors.Join(load(dir, groupMemory, &r.Memory), load(dir, groupSessions, &r.Sessions), load(dir, groupDevices, &r.Devices), load(dir, groupRFC, &r.RFC), load(dir, groupTunnels, &r.Tunnels))
}

func load[T any](dir, group string, into **T) error {
	content, err := os.ReadFile(file(dir, group))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	*into = new(T)
	if err := json.Unmarshal(content, *into); err != nil {
		return fmt.Errorf("results %s: %w", file(dir, group), err)
	}
	return nil
}

func save(dir, group string, results any) error {
	content, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return fmt.Errorf("results of %s: %w", group, err)
	}
	if err := os.WriteFile(file(dir, group), append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
