package logstore

import (
	"fmt"
	"log/slog"
)

// quietLogger passes on Pebble's errors; its chatter goes to debug.
type quietLogger struct {
	log *slog.Logger
	dir string
}

func (l quietLogger) Infof(format string, args ...any) {
	l.log.Debug("pebble: "+fmt.Sprintf(format, args...), "dir", l.dir)
}

func (l quietLogger) Errorf(format string, args ...any) {
	l.log.Error("pebble: "+fmt.Sprintf(format, args...), "dir", l.dir)
}

// Fatalf is called where Pebble must not go on, such as after a failed sync of its manifest: an fsync is never
// tried again, the process ends and starts from the mark.
func (l quietLogger) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("pebble in "+l.dir+": "+format, args...))
}
