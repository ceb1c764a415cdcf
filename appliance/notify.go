package appliance

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// notifySystemd sends a state such as READY=1 to the service manager that started the process; without one it
// does nothing. The service manager is told nothing it must have, so a failure is only logged.
func notifySystemd(log *slog.Logger, state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	if socket[0] == '@' { // an abstract socket
		socket = "\x00" + socket[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		log.Warn("service manager not reached", "err", err)
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		log.Warn("service manager not told", "state", state, "err", err)
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

// watchdog tells the service manager twice per its interval that the node lives, as long as alive says so.
func watchdog(ctx context.Context, log *slog.Logger, alive func() bool) {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	tick := time.NewTicker(max(time.Duration(usec)*time.Microsecond/2, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if alive() {
				notifySystemd(log, "WATCHDOG=1")
			}
		}
	}
}
