package cli

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance"
)

func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVarP(path, "config", "c", configPath(), "configuration file (TRIWARD_CONFIG)")
	_ = c.MarkFlagFilename("config", "yaml", "yml")
}

func newConfig(s streams) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check and show the configuration", Args: cobra.NoArgs, RunE: needSubcommand}
	var path string
	check := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Name every mistake in the configuration by key and line",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				path = args[0]
			}
			if _, err := appliance.LoadConfig(path); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "%s is good\n", path)
			return nil
		},
	}
	configFlag(check, &path)
	var showPath string
	var form outputForm
	show := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in effect, defaults included",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := appliance.LoadConfig(showPath)
			if err != nil {
				return err
			}
			if err := cfg.Resolve(); err != nil {
				return err
			}
			body, err := yaml.Marshal(cfg)
			if err != nil {
				return fmt.Errorf("print configuration: %w", err)
			}
			if form.json() {
				var v any
				if err := yaml.Unmarshal(body, &v); err != nil {
					return fmt.Errorf("print configuration: %w", err)
				}
				return writeJSON(s.out, v)
			}
			_, err = s.out.Write(body)
			return err
		},
	}
	configFlag(show, &showPath)
	form.flag(show)
	c.AddCommand(check, show)
	return c
}
