// Command triward-agent collects metrics and logs of a machine and brings them to a Triward cluster. It only
// turns flags and signals into calls of package agent and errors into exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/agent/sender"
	"github.com/triward/triward/agent/spool"
)

// Exit codes, the same as those of triward.
const (
	exitOK            = 0
	exitFailed        = 1
	exitNotRegistered = 10
	exitLocked        = 11
	exitConfig        = 12
	exitDamaged       = 13
	exitInterrupted   = 130
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Stdout, os.Stderr).ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "triward-agent:", err)
	}
	os.Exit(exitCode(err, interrupted))
}

// configError is a configuration that cannot be used.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

func exitCode(err error, interrupted bool) int {
	var bad *configError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, sender.ErrNotRegistered):
		return exitNotRegistered
	case errors.Is(err, spool.ErrLocked):
		return exitLocked
	case errors.As(err, &bad):
		return exitConfig
	case errors.Is(err, spool.ErrDamaged):
		return exitDamaged
	case interrupted && errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}

// options are the flags of all commands.
type options struct {
	configPath string
	explicit   bool
	out, err   io.Writer
}

func (o *options) load() (config.Config, error) {
	c, err := config.Load(o.configPath, !o.explicit)
	if err != nil {
		return c, &configError{err}
	}
	return c, nil
}

func (o *options) logger(c *config.Config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		level = slog.LevelInfo
	}
	h := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(o.err, h))
	}
	return slog.New(slog.NewTextHandler(o.err, h))
}

func command(out, errw io.Writer) *cobra.Command {
	o := &options{out: out, err: errw}
	root := &cobra.Command{
		Use:           "triward-agent",
		Short:         "Collects metrics and logs of this machine for a Triward cluster",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			o.explicit = cmd.Flags().Changed("config")
		},
	}
	root.SetOut(out)
	root.SetErr(errw)
	root.PersistentFlags().StringVarP(&o.configPath, "config", "c", config.DefaultPath, "configuration file")
	root.AddCommand(runCommand(o), enrollCommand(o), statusCommand(o), checkCommand(o), testCommand(o),
		spoolCommand(o), versionCommand(o))
	return root
}

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			revision := ""
			if bi, ok := debug.ReadBuildInfo(); ok {
				for _, s := range bi.Settings {
					if s.Key == "vcs.revision" {
						revision = " " + s.Value
					}
				}
				revision += " " + bi.GoVersion
			}
			_, err := fmt.Fprintf(o.out, "triward-agent %s%s\n", version, revision)
			return err
		},
	}
}
