package selfmon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/triward/triward/agent/wire"
)

// Bounds of the lines that wait to be stored. A node that says more than the rate has trouble of which the first lines
// tell; all of it is in its log.
const (
	maxWaiting      = 2000
	maxWaitingBytes = 1 << 20
	maxLine         = 8 << 10
	linesPerSecond  = 20
	lineBurst       = 500
)

// Buffer holds lines of the node's log until they are stored. It is safe for concurrent use.
type Buffer struct {
	mu    sync.Mutex
	lines []wire.LogLine
	bytes int
	lost  int // since they were last told of
	limit *rate.Limiter
	last  int64 // time of the newest line: no two have one time, so that one given again is found
}

// NewBuffer makes an empty buffer.
func NewBuffer() *Buffer {
	return &Buffer{limit: rate.NewLimiter(linesPerSecond, lineBurst)}
}

// put adds a line, or counts it as lost.
func (b *Buffer) put(t time.Time, level slog.Level, text string) {
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "…"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lines) >= maxWaiting || b.bytes+len(text) > maxWaitingBytes || !b.limit.AllowN(t, 1) {
		b.lost++
		return
	}
	b.add(t.UnixNano(), severityOf(level), text)
}

// setBack is how much earlier than the newest a line must be to say that the clock was set back. It keeps its time then:
// that of a clock which was far ahead is refused.
const setBack = time.Minute

func (b *Buffer) add(t int64, s wire.Severity, text string) {
	if t > b.last-int64(setBack) {
		t = max(t, b.last+1)
	}
	b.last = t
	b.lines = append(b.lines, wire.LogLine{T: t, Severity: s, Text: []byte(text)})
	b.bytes += len(text)
}

const takeAtOnce = 500

// take removes lines to store them, and tells how many were lost since it was last called; of those a line tells too.
func (b *Buffer) take() (lines []wire.LogLine, lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if lost = b.lost; lost > 0 && len(b.lines) < maxWaiting {
		b.lost = 0
		b.add(time.Now().UnixNano(), wire.SeverityWarning, fmt.Sprintf("%d lines of the node's own log were not stored", lost))
	} else {
		lost = 0
	}
	n := min(takeAtOnce, len(b.lines))
	lines = slices.Clone(b.lines[:n])
	b.lines = slices.Delete(b.lines, 0, n)
	for i := range lines {
		b.bytes -= len(lines[i].Text)
	}
	return lines, lost
}

// giveBack puts lines that were not stored before those that came since. What does not fit is lost, the newest first.
func (b *Buffer) giveBack(lines []wire.LogLine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = slices.Concat(lines, b.lines)
	for i := range lines {
		b.bytes += len(lines[i].Text)
	}
	for len(b.lines) > maxWaiting || b.bytes > maxWaitingBytes {
		last := len(b.lines) - 1
		b.bytes -= len(b.lines[last].Text)
		b.lines = b.lines[:last]
		b.lost++
	}
}

func severityOf(l slog.Level) wire.Severity {
	switch {
	case l >= slog.LevelError:
		return wire.SeverityError
	case l >= slog.LevelWarn:
		return wire.SeverityWarning
	case l >= slog.LevelInfo:
		return wire.SeverityInfo
	}
	return wire.SeverityDebug
}

// Handler hands on to another handler and puts what is of level info or above into the buffer too.
type Handler struct {
	next   slog.Handler
	buffer *Buffer
	prefix string // of attributes, that of the open group
	text   string // attributes given with With
}

// NewHandler makes a handler before next.
func NewHandler(next slog.Handler, b *Buffer) *Handler { return &Handler{next: next, buffer: b} }

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		var text strings.Builder
		text.WriteString(r.Message)
		r.Attrs(func(a slog.Attr) bool { appendAttr(&text, h.prefix, a); return true })
		text.WriteString(h.text)
		at := r.Time
		if at.IsZero() {
			at = time.Now()
		}
		h.buffer.put(at, r.Level, text.String())
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(as []slog.Attr) slog.Handler {
	var text strings.Builder
	text.WriteString(h.text)
	for _, a := range as {
		appendAttr(&text, h.prefix, a)
	}
	out := *h
	out.next, out.text = h.next.WithAttrs(as), text.String()
	return &out
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	out := *h
	out.next, out.prefix = h.next.WithGroup(name), h.prefix+name+"."
	return &out
}

// appendAttr writes an attribute as key=value, values with spaces or quotes quoted.
func appendAttr(w *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, x := range v.Group() {
			appendAttr(w, prefix, x)
		}
		return
	}
	if a.Key == "" {
		return
	}
	s := v.String()
	if v.Kind() == slog.KindTime {
		s = v.Time().Format(time.RFC3339Nano)
	}
	if s == "" || strings.ContainsAny(s, " \t\r\n\"=") {
		s = strconv.Quote(s)
	}
	w.WriteByte(' ')
	w.WriteString(prefix)
	w.WriteString(a.Key)
	w.WriteByte('=')
	w.WriteString(s)
}
