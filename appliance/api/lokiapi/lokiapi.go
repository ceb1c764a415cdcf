// Package lokiapi serves the HTTP API of Grafana Loki (/loki/api/v1/…) for reading on the store of log lines, in Loki's own
// form, so that Grafana, its Explore and `logcli` see what they know. Pushing is package intake's.
//
// It owns the paths, their parameters and the form of answers; what a query means is package logql's, and what it may take
// is bounded there and by the store's gate. Roles, sessions and the wait for a consistent state are put around it by the
// caller. Loki's public documentation of the API was followed; nothing of its source was read.
package lokiapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/logstore/query"
)

// Bounds of a request.
const (
	MaxBody    = 1 << 20 // bytes of a form
	MaxEntries = 5000    // lines of an answer
	maxParam   = 64 << 10
)

// LokiVersion is the release whose API this follows; clients choose their features by it.
const LokiVersion = "3.4.0"

// Prefix is where the API stands.
const Prefix = "/loki/api/v1/"

// Store is what is needed of a *logstore.Store. It fails with the errors of that.
type Store interface {
	storesource.Store
	Admit(ctx context.Context, bytes int64) (context.Context, func(), error)
	Labels(ctx context.Context, start, end int64) ([]string, error)
	LabelValues(ctx context.Context, name string, start, end int64) ([]string, error)
	Series(ctx context.Context, f *query.Filter, start, end int64) (*logstore.Streams, error)
	Volumes(ctx context.Context, f *query.Filter, start, end, step int64) (*logstore.Volumes, error)
	ReadAfter(ctx context.Context, pos logstore.Position, f *query.Filter, since int64, limit int) (*logstore.Tail, error)
	Changed() <-chan struct{}
	Applied() uint64
}

// Options of the API. The zero value of a field means its default; Store has none.
type Options struct {
	Store   Store
	Version string        // Triward's, shown as the revision
	Timeout time.Duration // of one answer; 60 s
	Tails   int           // live tails at once; 32
	Logger  *slog.Logger
	// Origins are those of pages that may open a live tail; nil: none but the node's own.
	Origins func() []string
	// Allowed is asked again and again while a tail lives whether who opened it still may; nil: yes.
	Allowed func(r *http.Request) bool
	// LogTime is the time of the cluster's log, before which no newly accepted line is much older; nil for the clock.
	LogTime func() time.Time
}

// Handler serves all paths below Prefix. It is safe for concurrent use; Close ends live tails.
type Handler struct {
	opts   Options
	engine *logql.Engine
	paths  map[string]func(w http.ResponseWriter, r *request) error

	life   context.Context
	end    context.CancelFunc
	mu     sync.Mutex
	closed bool
	tails  int
	wait   sync.WaitGroup
}

// New makes the handler.
func New(opts Options) *Handler {
	if opts.Timeout <= 0 {
		opts.Timeout = time.Minute
	}
	if opts.Tails <= 0 {
		opts.Tails = 32
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.LogTime == nil {
		opts.LogTime = time.Now
	}
	h := &Handler{opts: opts, engine: &logql.Engine{
		Source: storesource.Source{Store: opts.Store}, Levels: true,
		Limits: logql.Limits{Result: 1_000_000, Entries: MaxEntries},
	}}
	h.life, h.end = context.WithCancel(context.Background())
	h.paths = map[string]func(http.ResponseWriter, *request) error{
		"query": h.query, "query_range": h.queryRange, "labels": h.labels, "label": h.labels, "series": h.series, "index/stats": h.stats,
		"index/volume": h.volume, "index/volume_range": h.volumeRange, "detected_labels": h.detectedLabels, "detected_fields": h.detectedFields,
		"format_query": h.format, "status/buildinfo": h.buildinfo, "tail": h.tail,
	}
	return h
}

// Close ends all live tails and waits for them.
func (h *Handler) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.end()
	h.wait.Wait()
	return nil
}

// request is a request with its parameters.
type request struct {
	*http.Request
	form url.Values
	name string // of a label or field in the path
	now  time.Time
}

// statusError is an error whose status is known.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func badf(format string, args ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

// ServeHTTP answers a request below Prefix.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, _ := strings.CutPrefix(r.URL.Path, Prefix)
	q := &request{Request: r, now: time.Now()}
	serve := h.paths[path]
	if name, ok := middle(path, "label/", "/values"); ok {
		q.name, serve = name, h.values
	}
	if name, ok := middle(path, "detected_field/", "/values"); ok {
		q.name, serve = name, h.detectedValues
	}
	if serve == nil {
		h.fail(w, &statusError{http.StatusNotFound, fmt.Errorf("there is nothing at %.100q", r.URL.Path)})
		return
	}
	if err := q.read(w); err != nil {
		h.fail(w, err)
		return
	}
	if path != "tail" {
		ctx, cancel := context.WithTimeout(r.Context(), h.opts.Timeout)
		defer cancel()
		q.Request = r.WithContext(ctx)
	}
	if err := serve(w, q); err != nil {
		h.fail(w, err)
	}
}

func middle(path, before, after string) (string, bool) {
	rest, ok := strings.CutPrefix(path, before)
	name, ends := strings.CutSuffix(rest, after)
	return name, ok && ends && name != "" && !strings.Contains(name, "/")
}

// read takes the parameters from the URL and the form.
func (q *request) read(w http.ResponseWriter) error {
	q.Body = http.MaxBytesReader(w, q.Body, MaxBody)
	if err := q.ParseForm(); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return &statusError{http.StatusRequestEntityTooLarge, fmt.Errorf("the form is larger than %d bytes", MaxBody)}
		}
		return badf("parameters: %w", err)
	}
	q.form = q.Form
	for name, all := range q.form {
		for _, v := range all {
			if len(v) > maxParam {
				return badf("parameter %.40q is longer than %d bytes", name, maxParam)
			}
		}
	}
	return nil
}

// fail answers with the text of an error, as Loki does.
func (h *Handler) fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	_, syntax := errors.AsType[*logql.SyntaxError](err)
	known, is := errors.AsType[*statusError](err)
	switch {
	case is:
		status = known.status
	case syntax, errors.Is(err, logql.ErrQuery), errors.Is(err, logstore.ErrRequest):
		status = http.StatusBadRequest
	case errors.Is(err, logstore.ErrBusy):
		status = http.StatusTooManyRequests
		w.Header().Set("Retry-After", "2")
	case errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
		err = fmt.Errorf("the query took longer than %v: ask for a shorter time, or narrow the selector: %w", h.opts.Timeout, err)
	case errors.Is(err, context.Canceled), errors.Is(err, logstore.ErrClosed), errors.Is(err, logstore.ErrDamaged):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	default:
		h.opts.Logger.Warn("request failed", "err", err)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(err.Error() + "\n")) // who is gone does not want it
}

// send writes a JSON document.
func send(w http.ResponseWriter, body []byte) error {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body) // who is gone does not want it
	return nil
}

// parseTime reads RFC 3339, seconds with a fraction, or a whole number of seconds, milli-, micro- or nanoseconds, told apart
// by its size.
func parseTime(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		size := max(n, -n)
		switch {
		case size < 0: // the least of all has no opposite
		case size < math.MaxInt64/1_000_000_000:
			return n * 1_000_000_000, nil
		case size < 1e14:
			return n * 1_000_000, nil
		case size < 1e17:
			return n * 1000, nil
		}
		return n, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < math.MaxInt64/1e9 {
		whole, frac := math.Modf(f)
		return int64(whole)*1e9 + int64(math.Round(frac*1e6))*1e3, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1678 || t.Year() > 2261 {
		return 0, errTime
	}
	return t.UnixNano(), nil
}

var errTime = errors.New("a time is seconds or nanoseconds since 1970, or like 2026-01-02T15:04:05Z")

// time returns a parameter that is a time.
func (q *request) time(name string, def int64) (int64, error) {
	s := q.form.Get(name)
	if s == "" {
		return def, nil
	}
	t, err := parseTime(s)
	if err != nil {
		return 0, badf("parameter %s: %.60q: %w", name, s, err)
	}
	return t, nil
}

// span returns start and end: by default the hour before now; `since` is counted from the end.
func (q *request) span() (start, end int64, err error) {
	if end, err = q.time("end", q.now.UnixNano()); err != nil {
		return 0, 0, err
	}
	since, err := q.duration("since", time.Hour)
	if err != nil {
		return 0, 0, err
	}
	if start, err = q.time("start", end-int64(since)); err != nil {
		return 0, 0, err
	}
	if start > end && q.form.Get("end") == "" {
		return start, start, nil // a clock that is ahead of ours: nothing is there yet
	}
	if start > end {
		return 0, 0, badf("the start is behind the end")
	}
	return start, end, nil
}

// duration returns a parameter that is a duration, or seconds.
func (q *request) duration(name string, def time.Duration) (time.Duration, error) {
	s := q.form.Get(name)
	if s == "" {
		return def, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f >= 0 && f < 1e9 {
		return time.Duration(f * 1e9), nil
	}
	d, err := logql.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, badf("parameter %s: %.60q is no duration such as 15s, and no number of seconds", name, s)
	}
	return d, nil
}

// number returns a parameter that is a whole number from 1 to most.
func (q *request) number(name string, def, most int) (int, error) {
	s := q.form.Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, badf("parameter %s: %.40q, 1 to %d are allowed", name, s, most)
	}
	return n, nil
}

func (h *Handler) buildinfo(w http.ResponseWriter, _ *request) error {
	return send(w, fmt.Appendf(nil, `{"version":%q,"revision":%q,"branch":"triward","buildUser":"","buildDate":"","goVersion":%q}`+"\n",
		LokiVersion, h.opts.Version, runtime.Version()))
}
