// Package cli is the command line of triward: the daemon's commands, those that ask a running cluster over its
// HTTP API, and `triward dev`. It owns the exit codes and the forms in which answers are printed.
//
// Commands that ask a cluster use nothing of the node but its HTTP API; only server, dev and cluster init reach
// into the appliance.
package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
)

// Exit codes of the command.
const (
	ExitOK             = 0
	ExitFailed         = 1
	ExitWarnings       = 3
	ExitNotInitialised = 10
	ExitLocked         = 11
	ExitConfig         = 12
	ExitCorrupt        = 13
	ExitNoQuorum       = 14
	ExitInterrupted    = 130
)

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// Main runs the command line and returns its exit code. SIGINT and SIGTERM end the context of the command.
func Main(args []string, in io.Reader, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot(streams{in, out, errs})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code := exitCode(ctx, err)
	if code != ExitInterrupted && code != ExitWarnings {
		fmt.Fprintf(errs, "triward: %v\n%s", err, caretAt(err))
		if hint := hintOf(err); hint != "" {
			fmt.Fprintf(errs, "hint: %s\n", hint)
		}
	}
	return code
}

// errWarnings says that the command did what it could and has told what it could not.
var errWarnings = errors.New("done with warnings")

// exitCode is the one table from errors to exit codes.
func exitCode(ctx context.Context, err error) int {
	var (
		config *appliance.ConfigError
		answer *apiError
		fatal  *raftstate.FatalError
	)
	switch {
	case errors.As(err, &config):
		return ExitConfig
	case errors.Is(err, errWarnings):
		return ExitWarnings
	case errors.Is(err, pki.ErrNotInitialised):
		return ExitNotInitialised
	case errors.Is(err, appliance.ErrRemoved):
		return ExitNotInitialised
	case errors.Is(err, appliance.ErrLocked):
		return ExitLocked
	case errors.Is(err, container.ErrNotBackup), errors.Is(err, container.ErrVersion), errors.Is(err, container.ErrDamaged),
		errors.Is(err, backup.ErrContent), errors.Is(err, backup.ErrNewer):
		return ExitCorrupt
	case errors.Is(err, appliance.ErrDamaged), errors.Is(err, appliance.ErrNewerFormat), errors.Is(err, errChain):
		return ExitCorrupt
	case errors.As(err, &fatal): // its codes are those of this table
		return fatal.ExitCode()
	case errors.As(err, &answer) && answer.noQuorum():
		return ExitNoQuorum
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return ExitInterrupted
	}
	return ExitFailed
}

func hintOf(err error) string {
	if answer, ok := errors.AsType[*apiError](err); ok && answer.Hint != "" {
		return answer.Hint
	}
	var stranger x509.UnknownAuthorityError
	switch {
	case errors.As(err, &stranger):
		return "name the cluster's CA with --ca or TRIWARD_CA; `triward cluster ca` on a node, as root, prints it"
	case errors.Is(err, pki.ErrNotInitialised):
		return "run `triward cluster init` on the first node and `triward cluster join` on the others"
	case errors.Is(err, keyring.ErrNoRing) && !errors.Is(err, appliance.ErrNoCAKey):
		return "a node takes the key ring from another member by itself; `triward key status` shows who has it"
	case errors.Is(err, pki.ErrUnusable):
		return "run `triward tls issue`; without the key of the CA move the node's TLS directory aside and run `triward cluster join` with a new token"
	case errors.Is(err, appliance.ErrNoCAKey), errors.Is(err, keyring.ErrUnwrap):
		return "give --recovery-key-file with the recovery key that `triward cluster init` printed, and --from with the recovery.json of another node when this one has none; or join anew: `triward cluster join`"
	case errors.Is(err, pki.ErrNotNow):
		return "set this machine's clock; it is what certificates are judged by"
	case errors.Is(err, appliance.ErrRemoved):
		return "to let this machine in again make a token on a member (triward cluster token create) and run `triward cluster join --discard-data` here: it deletes what the node has of then; otherwise delete data_dir and the TLS directory, which hold data and keys"
	case errors.Is(err, appliance.ErrDamagedLog):
		return "recover another node that is left, or restore a newer backup; or run it again with --cut-damaged-log, which says what is lost before it does anything"
	case errors.Is(err, appliance.ErrRecovering):
		return "run `triward cluster recover` again: it goes on where it was interrupted"
	case errors.Is(err, appliance.ErrLocked):
		return "another triward server uses this data directory; stop it first"
	case errors.Is(err, container.ErrNotBackup):
		return "name a file that `triward snapshot save` wrote"
	case errors.Is(err, backup.ErrKey):
		return "give --identity with the private key that belongs to one of its recipients, or --passphrase"
	case errors.Is(err, backup.ErrNewer), errors.Is(err, container.ErrVersion):
		return "use a triward at least as new as the one that made the backup"
	case errors.Is(err, appliance.ErrNotEmpty):
		return "restore on a machine without a node, or move its data away first"
	case errors.Is(err, appliance.ErrDamaged):
		return "where other nodes hold the data, move the data directory aside and join again: the node takes everything anew from its peers; the only node that is left keeps its directory and a backup is restored"
	}
	return ""
}

func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "triward",
		Short: "Monitoring for a site of its own: metrics, logs and events in three nodes that never lose one",
		Long: `Triward keeps the metrics, logs and events of a site in three nodes behind one replicated log.

Exit codes: 0 ok, 1 failed, 3 done with warnings, 10 not initialised, 11 data directory locked,
12 bad configuration, 13 corrupt data or newer format, 14 no quorum, 130 interrupted.`,
		Version:       Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetVersionTemplate("triward {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if strings.Contains(err.Error(), "unknown shorthand flag") { // `logs query '-debug'`, an id of old that begins with a hyphen
			return fmt.Errorf("%w; an argument that begins with a hyphen comes after `--`", err)
		}
		return err
	})
	root.AddCommand(
		newServer(s), newDev(s), newCluster(s), newSnapshot(s), newQuery(s), newLogs(s), newEvents(s), newQueue(s), newRetention(s), newAgents(s), newKey(s), newConfig(s), newTLS(s), newDoctor(s), newUpgrade(s),
		newVersion(s),
	)
	root.AddCommand(alertCommands(s)...)
	root.AddCommand(accessCommands(s)...)
	root.InitDefaultCompletionCmd()
	return root
}

// release is set by the linker.
var release = "dev"

// Version is the release and the commit that the binary was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := "", ""
	for _, set := range info.Settings {
		switch set.Key {
		case "vcs.revision":
			rev = "-" + set.Value[:min(12, len(set.Value))]
		case "vcs.modified":
			if set.Value == "true" {
				dirty = "-changed"
			}
		}
	}
	return release + rev + dirty
}

func newVersion(s streams) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			if form.json() {
				return writeJSON(s.out, map[string]string{"version": Version(), "go": info.GoVersion})
			}
			_, err := fmt.Fprintf(s.out, "triward %s (%s)\n", Version(), info.GoVersion)
			return err
		},
	}
	form.flag(c)
	return c
}
