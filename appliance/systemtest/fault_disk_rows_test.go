package systemtest

import "slices"

// diskRows are faults of disks and clocks.
func diskRows() []faultRow { return slices.Concat(powerRows(), hungRows(), fullRows(), clockRows()) }
