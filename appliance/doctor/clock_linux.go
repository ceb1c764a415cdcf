package doctor

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// timeService asks the kernel whether the clock is kept by somebody, and how far off it may be.
func timeService() (kept bool, estimated time.Duration, err error) {
	var t unix.Timex // Modes 0: nothing is set
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, 0, fmt.Errorf("ask the kernel about its clock: %w", err)
	}
	const unsynchronised = 0x40 // STA_UNSYNC
	return state != unix.TIME_ERROR && t.Status&unsynchronised == 0, time.Duration(t.Esterror) * time.Microsecond, nil
}
