// Command nat64d is the translator: AF_XDP poll-mode workers between an
// IPv6-only and an IPv4 network.
package main

import (
	"fmt"
	"io"
	"os"

	"handoff64/cmd/commandline"
	"handoff64/cmd/nat64d/config"
)

// version is set by the build: -ldflags "-X main.version=…".
var version string

const usage = `nat64d translates between IPv6-only clients and IPv4 servers (NAT64).

Usage:
  nat64d run --config FILE [--pprof ADDR] [--profile KIND] [--profile-dir DIR] [--tables DIR]
  nat64d check --config FILE
  nat64d replay --config FILE --ipv6-in PCAP --ipv4-in PCAP --ipv6-out PCAP --ipv4-out PCAP [--drops]

Commands:
  run      translate until SIGTERM or SIGINT
  check    validate a configuration; lists every problem, not just the first
  replay   the same data path over capture files, without privileges

'nat64d COMMAND --help' lists a command's flags, 'nat64d --version' prints the version.
A running nat64d is looked into with nat64ctl.
`

func main() { os.Exit(dispatch(os.Args[1:], os.Stdout, os.Stderr)) }

func dispatch(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, "nat64d: no command; give one of run, check, replay (nat64d --help)")
		return commandline.Usage
	}
	switch args[0] {
	case "run":
		return runCommand(args[1:], stdout, stderr)
	case "check":
		return checkCommand(args[1:], stdout, stderr)
	case "replay":
		return replayCommand(args[1:], stdout, stderr)
	case "--help", "-help", "-h", "help":
		fmt.Fprint(stdout, usage)
		return commandline.OK
	case "--version", "-version", "version":
		fmt.Fprintln(stdout, "nat64d", commandline.Version(version))
		return commandline.OK
	}
	fmt.Fprintf(stderr, "nat64d: command %q is unknown; give one of run, check, replay (nat64d --help)\n", args[0])
	return commandline.Usage
}

// newFlags returns the flags of a command. about is what its help says first,
// synopsis its usage line without the program's name.
func newFlags(name, about, synopsis string, stdout, stderr io.Writer) *commandline.Flags {
	return commandline.NewFlags("nat64d", commandline.Version(version), name, about, synopsis, stdout, stderr)
}

// loadConfig reads and validates the file; problems go to stderr, one a line.
func loadConfig(file string, stderr io.Writer) (*config.Config, bool) {
	_, c, ok := loadDocument(file, stderr)
	return c, ok
}

// loadDocument is loadConfig that gives the text as well.
func loadDocument(file string, stderr io.Writer) (config.Document, *config.Config, bool) {
	if file == "" {
		fmt.Fprintln(stderr, "nat64d: --config FILE is missing; give one such as --config /etc/nat64d/nat64d.json")
		return config.Document{}, nil, false
	}
	data, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintf(stderr, "nat64d: configuration: %v\n", err)
		return config.Document{}, nil, false
	}
	text := config.NewDocument(file, data)
	c, problems := text.Parse()
	for _, p := range problems {
		fmt.Fprintln(stderr, p.Error())
	}
	return text, c, len(problems) == 0
}

func checkCommand(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("check", "Lists every problem of a configuration with its line, then warnings. Needs no privileges.\nThe exit code is 2 when there is a problem.",
		"check --config FILE", stdout, stderr)
	file := fs.String("config", "", "configuration `FILE` (JSON)")
	if code, ok := fs.Read(args); !ok {
		return code
	}
	c, ok := loadConfig(*file, stderr)
	if !ok {
		return commandline.Usage
	}
	for _, w := range c.Warnings {
		fmt.Fprintln(stderr, "warning:", w.Error())
	}
	fmt.Fprintf(stdout, "%s: ok\n", *file)
	return commandline.OK
}
