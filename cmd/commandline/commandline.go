// Package commandline is how all commands of the project speak on the command
// line: flags with two dashes, mistakes in one line on stderr with exit code 2,
// help on stdout.
package commandline

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"text/tabwriter"
)

// Exit codes of all commands.
const (
	OK      = 0
	Failure = 1 // at run time
	Usage   = 2 // a mistake on the command line or in a configuration
)

// Version is what the build said, else what the toolchain recorded.
func Version(built string) string {
	if built != "" {
		return built
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// dashes turns the flag package's spelling of flags into ours.
var dashes = strings.NewReplacer("not defined: -", "not defined: --", "needs an argument: -", "needs an argument: --", "for flag -", "for flag --")

// Mistake is what the flag package says of a command line, with two dashes.
func Mistake(err error) string { return dashes.Replace(err.Error()) }

// Flags are those of one subcommand. Used by one goroutine.
type Flags struct {
	*flag.FlagSet
	Stdout, Stderr io.Writer

	program, version string
	about, synopsis  string
}

// NewFlags returns the flags of a program's subcommand. about is what its help
// says first, synopsis its usage line without the program's name.
func NewFlags(program, version, name, about, synopsis string, stdout, stderr io.Writer) *Flags {
	fs := &Flags{flag.NewFlagSet(name, flag.ContinueOnError), stdout, stderr, program, version, about, synopsis}
	fs.SetOutput(io.Discard)
	fs.Usage = func() {} // the package also calls it after a mistake
	return fs
}

// Read parses the flags, behind which there may be nothing. It returns an exit
// code and false when the command ends here.
func (fs *Flags) Read(args []string) (int, bool) {
	wantVersion := fs.Bool("version", false, "print the version")
	err := fs.FlagSet.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.help()
		return OK, false
	case err == nil && *wantVersion:
		fmt.Fprintln(fs.Stdout, fs.program, fs.version)
		return OK, false
	case err != nil:
		return fs.Misuse(Mistake(err)), false
	case fs.NArg() > 0:
		return fs.Misuse(fmt.Sprintf("unexpected argument %q", fs.Arg(0))), false
	}
	return OK, true
}

// Misuse says in one line what is wrong with the command line.
func (fs *Flags) Misuse(what string) int {
	fmt.Fprintf(fs.Stderr, "%s %s: %s (%s %s --help)\n", fs.program, fs.Name(), what, fs.program, fs.Name())
	return Usage
}

// Fail says in one line what went wrong at run time.
func (fs *Flags) Fail(err error) int {
	fmt.Fprintf(fs.Stderr, "%s %s: %s\n", fs.program, fs.Name(), strings.ReplaceAll(err.Error(), "\n", "; "))
	return Failure
}

func (fs *Flags) help() {
	fmt.Fprintf(fs.Stdout, "%s\n\nUsage:\n  %s %s\n\nFlags:\n", fs.about, fs.program, fs.synopsis)
	t := tabwriter.NewWriter(fs.Stdout, 0, 8, 3, ' ', 0)
	fs.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(t, "  --%s\t%s\n", strings.TrimSpace(f.Name+" "+value), text)
	})
	t.Flush()
}
