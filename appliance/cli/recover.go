package cli

import "github.com/spf13/cobra"

func newClusterRecover(s streams) *cobra.Command { return &cobra.Command{Use: "recover"} }
