package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/alerting/ruletest"
	"github.com/triward/triward/appliance/logrules"
)

func newRulesTest(s streams) *cobra.Command {
	return &cobra.Command{
		Use: "test FILE...", Short: "Run unit tests of rule files, as promtool test rules does",
		Long: `Runs files of unit tests of rule files: what promtool test rules takes, with the same verdict, and groups in LogQL over
input_logs. It asks no cluster. Groups of Triward's own kinds are passed over.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			bad := 0
			for _, path := range args {
				tests, failures, err := ruletest.Run(c.Context(), path, logrules.Over)
				if err != nil {
					return err
				}
				for _, f := range failures {
					fmt.Fprintf(s.out, "%s: %s: %s\n", path, printable(f.Test), f.What)
				}
				if len(failures) > 0 {
					bad++
					continue
				}
				fmt.Fprintf(s.out, "%s: %d tests, ok\n", path, tests)
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d files of tests failed", bad, len(args))
			}
			return nil
		},
	}
}
