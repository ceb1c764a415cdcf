// Command triward is the node and its command line. All it does is in appliance/cli.
package main

import (
	"os"
	_ "time/tzdata" // schedules name time zones, and a small machine may have none

	"github.com/triward/triward/appliance/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
