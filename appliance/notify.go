package appliance

import (
	"context"
	"log/slog"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/triward/triward/agent/systemd"
)

// notifySystemd sends a state to the service manager. It is told nothing it must have, so a failure is only logged.
func notifySystemd(log *slog.Logger, state string) {
	if err := systemd.Notify(state); err != nil {
		log.Warn("service manager does not hear", "err", err)
	}
}

// notifyReloading tells the service manager that the configuration is being read; READY=1 ends it. The time belongs
// to Type=notify-reload.
func notifyReloading(log *slog.Logger) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		log.Warn("monotonic clock", "err", err)
	}
	notifySystemd(log, "RELOADING=1\nMONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10))
}

// watchdog tells the service manager that the node lives, as long as alive says so.
func watchdog(ctx context.Context, log *slog.Logger, alive func() bool) {
	systemd.Watchdog(ctx, func() {
		if alive() {
			notifySystemd(log, "WATCHDOG=1")
		}
	})
}
