package raftstate

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLogger lets raft and its log write to our logger. What raft reports as info at every mark is debug to an
// operator, and a mark that found nothing to do is no error.
type raftLogger struct {
	log  *slog.Logger
	name string
	args []any
}

func newRaftLogger(l *slog.Logger) hclog.Logger { return &raftLogger{log: l.With("part", "raft")} }

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Info:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Log implements hclog.Logger.
func (r *raftLogger) Log(l hclog.Level, msg string, args ...any) {
	lv := level(l)
	switch {
	case strings.HasPrefix(msg, "starting snapshot"), strings.HasPrefix(msg, "snapshot complete"),
		strings.HasPrefix(msg, "no logs to truncate"), strings.HasPrefix(msg, "compacting logs"),
		strings.HasPrefix(msg, "unable to get address for server"): // a member that was not told of the others yet
		lv = slog.LevelDebug
	case strings.HasPrefix(msg, "failed to take snapshot"):
		for _, a := range args {
			if err, ok := a.(error); ok && quietMark(err) {
				lv = slog.LevelDebug
			}
		}
	}
	r.log.Log(context.Background(), lv, msg, formatted(args)...)
}

// formatted returns args with what raft wants printed in a format of its own.
func formatted(args []any) []any {
	args = slices.Clone(args) // the caller's
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	return args
}

func quietMark(err error) bool {
	text := err.Error() // raft wraps with %v
	return strings.Contains(text, "nothing new to snapshot") || strings.Contains(text, errSuperseded.Error()) ||
		strings.Contains(text, "cannot take snapshot now")
}

// Trace implements hclog.Logger.
func (r *raftLogger) Trace(msg string, args ...any) { r.Log(hclog.Trace, msg, args...) }

// Debug implements hclog.Logger.
func (r *raftLogger) Debug(msg string, args ...any) { r.Log(hclog.Debug, msg, args...) }

// Info implements hclog.Logger.
func (r *raftLogger) Info(msg string, args ...any) { r.Log(hclog.Info, msg, args...) }

// Warn implements hclog.Logger.
func (r *raftLogger) Warn(msg string, args ...any) { r.Log(hclog.Warn, msg, args...) }

// Error implements hclog.Logger.
func (r *raftLogger) Error(msg string, args ...any) { r.Log(hclog.Error, msg, args...) }

func (r *raftLogger) enabled(l slog.Level) bool { return r.log.Enabled(context.Background(), l) }

// IsTrace implements hclog.Logger.
func (r *raftLogger) IsTrace() bool { return false }

// IsDebug implements hclog.Logger.
func (r *raftLogger) IsDebug() bool { return r.enabled(slog.LevelDebug) }

// IsInfo implements hclog.Logger.
func (r *raftLogger) IsInfo() bool { return r.enabled(slog.LevelInfo) }

// IsWarn implements hclog.Logger.
func (r *raftLogger) IsWarn() bool { return r.enabled(slog.LevelWarn) }

// IsError implements hclog.Logger.
func (r *raftLogger) IsError() bool { return r.enabled(slog.LevelError) }

// ImpliedArgs implements hclog.Logger.
func (r *raftLogger) ImpliedArgs() []any { return r.args }

// With implements hclog.Logger.
func (r *raftLogger) With(args ...any) hclog.Logger {
	all := append(append([]any(nil), r.args...), args...)
	return &raftLogger{log: r.log.With(args...), name: r.name, args: all}
}

// Name implements hclog.Logger.
func (r *raftLogger) Name() string { return r.name }

// Named implements hclog.Logger.
func (r *raftLogger) Named(name string) hclog.Logger {
	return &raftLogger{log: r.log, name: name, args: r.args}
}

// ResetNamed implements hclog.Logger.
func (r *raftLogger) ResetNamed(name string) hclog.Logger { return r.Named(name) }

// SetLevel implements hclog.Logger; the handler of our logger decides.
func (r *raftLogger) SetLevel(hclog.Level) {}

// GetLevel implements hclog.Logger.
func (r *raftLogger) GetLevel() hclog.Level { return hclog.Debug }

// StandardLogger implements hclog.Logger.
func (r *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(r.log.Handler(), slog.LevelInfo)
}

// StandardWriter implements hclog.Logger.
func (r *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return r.StandardLogger(nil).Writer()
}
