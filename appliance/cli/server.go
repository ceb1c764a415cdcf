package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/appliance"
)

// serviceUser is whom packages run the node as.
const serviceUser = "triward"

func newServer(s streams) *cobra.Command {
	var path string
	var ask bool
	c := &cobra.Command{
		Use:   "server",
		Short: "Run a node until SIGTERM",
		Long: `Runs a node until SIGTERM. SIGHUP makes it read log.level and the certificate files of its listeners anew; other
keys take effect at the next start. Root's server becomes the user that owns data_dir.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if ask {
				return askInitialised(path)
			}
			hangups := make(chan os.Signal, 1) // from here on: one that comes during a long start must not end it
			signal.Notify(hangups, syscall.SIGHUP)
			defer signal.Stop(hangups)
			cfg, err := appliance.LoadConfig(path)
			if err != nil {
				return err
			}
			if err := owner.Become(cfg.DataDir, serviceUser); err != nil {
				return err
			}
			log, level := newLogger(cfg.Log, s.err)
			app, err := appliance.New(cfg, appliance.Options{Log: log, Level: level, Version: Version(), Context: c.Context()})
			if err != nil {
				return fmt.Errorf("prepare node: %w", err)
			}
			reloads, stop := context.WithCancel(c.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				reloadOn(reloads, hangups, app, path, log)
			}()
			err = app.Run(c.Context())
			stop()
			<-done
			return err
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&ask, "initialised", false, "only say whether init or join was run (exit code 0 or 10); for the unit")
	return c
}

// askInitialised is the condition of the unit: a node that was not set up is not started, and is no failed unit. What
// is wrong with a configuration the start itself reports.
func askInitialised(path string) error {
	cfg, err := appliance.LoadConfig(path)
	if err == nil {
		err = cfg.Resolve()
	}
	if err != nil {
		return nil
	}
	return cfg.Initialised()
}

func reloadOn(ctx context.Context, hangups <-chan os.Signal, app *appliance.App, path string, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			if err := app.Reload(func() (appliance.Config, error) { return appliance.LoadConfig(path) }); err != nil {
				log.Error("configuration is not read anew: the node goes on with what it has", "err", err)
			}
		}
	}
}

func newLogger(cfg appliance.LogConfig, w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	appliance.SetLevel(level, cfg.Level)
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), level
	}
	return slog.New(slog.NewTextHandler(w, opts)), level
}
