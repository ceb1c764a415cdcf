package cli

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance"
)

func newServer(s streams) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "server",
		Short: "Run a node until SIGTERM",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := appliance.LoadConfig(path)
			if err != nil {
				return err
			}
			app, err := appliance.New(cfg, appliance.Options{Log: newLogger(cfg.Log, s.err), Version: Version()})
			if err != nil {
				return fmt.Errorf("prepare node: %w", err)
			}
			return app.Run(c.Context())
		},
	}
	configFlag(c, &path)
	return c
}

func newLogger(cfg appliance.LogConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Level)) // the configuration was checked
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
