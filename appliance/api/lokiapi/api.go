// Package lokiapi serves the part of Loki's HTTP API that asks for lines (/loki/api/v1/…) on the log store, so that
// Grafana's data source for Loki and logcli work against a node. Pushing is package intake's.
//
// The form of requests and answers follows Loki's public documentation; docs/loki.md says where it differs and why. The
// package owns the bounds of a request: its size, its time, the rows and series of its answer. Memory and number of
// queries at once are bounded by the store (logstore.Store.Admit). Roles, sessions and the wait for a consistent state are
// put around it by the caller. It must not import raftstate.
package lokiapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/appliance/api/answers"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/ui"
)

// Bounds of a request.
const (
	MaxBody       = 1 << 20 // bytes of a form
	MaxSelectors  = 100     // of match[]
	maxLimit      = 5000    // lines of an answer
	maxNames      = 10_000  // names or values of labels in an answer
	defaultFields = 1000    // fields that are detected, and most that may be asked for
	engineMemory  = 64 << 20
)

// Version is the release of Loki whose API this is; Grafana chooses its features by it.
const Version = "3.5.0"

// Prefix is the path of the API.
const Prefix = "/loki/api/v1/"

// Gate decides who may follow lines, and looks again while they do. ui.Gate has these methods.
type Gate interface {
	// Viewer returns who makes the request, or false when nobody known does.
	Viewer(r *http.Request) (ui.Viewer, bool)
	// Recheck returns the viewer as of now, or false once the session or token is void.
	Recheck(v ui.Viewer) (ui.Viewer, bool)
	// May reports whether the viewer may have live subscriptions of the kind.
	May(v ui.Viewer, kind string) bool
	// Origins returns the origins ("https://host:port") whose pages may connect.
	Origins() []string
}

// Options of the API. The zero value of a field means its default; Store, Feed and Gate have none.
type Options struct {
	Store *logstore.Store
	Feed  *ui.LineFeed // of lines as they are applied, for tail
	Gate  Gate
	// Timeout bounds a query: 30 s.
	Timeout time.Duration
	// Elsewhere is asked to answer a query that this node's store answers in part: it has another node do it, and reports
	// whether it did. The context of the request has the time that is left. nil: nobody is asked.
	Elsewhere func(w http.ResponseWriter, r *http.Request) bool
	// Answers bounds large answers that are being sent; nil makes room for 256 MiB.
	Answers *answers.Room
	// Tails bounds the live tails at once: 100, of one user a fifth.
	Tails int
	// Version is Triward's, shown as the revision.
	Version string
	Log     *slog.Logger // default: discards
	// Registerer takes the API's own metrics; nil: none.
	Registerer prometheus.Registerer
}

// API is the handler of all paths below Prefix that it serves; others answer 404. It is safe for concurrent use.
type API struct {
	opts   Options
	engine *logql.Engine
	tails  tails
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New returns the API. Close ends the tails that it serves.
func New(opts Options) *API {
	if opts.Timeout <= 0 {
		opts.Timeout = 30 * time.Second
	}
	if opts.Tails <= 0 {
		opts.Tails = 100
	}
	if opts.Answers == nil {
		opts.Answers = answers.NewRoom(0)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	a := &API{opts: opts, engine: &logql.Engine{
		Source: storesource.Source{Store: opts.Store}, Levels: true, Limits: logql.Limits{Memory: engineMemory, Entries: maxLimit},
	}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.tails.init(opts.Registerer)
	return a
}

// Close ends all tails and waits for them. It is idempotent.
func (a *API) Close() error {
	a.tails.close()
	a.cancel()
	a.work.Wait()
	return nil
}

// request is one request on its way through a route.
type request struct {
	w    http.ResponseWriter
	r    *http.Request
	form url.Values
	name string // of the label or field in the path
	now  time.Time
	// leave gives the request's place at the store back, once: from then on the store is not asked any more.
	leave func()
	room  *answers.Room
}

func (q *request) ctx() context.Context { return q.r.Context() }

// route answers a request, or fails before it has written anything.
type route struct {
	serve func(a *API, q *request) error
	bytes int64 // of memory that the store admits; 0 when the store is not asked
}

// Memory that queries are admitted with.
const (
	lookupBytes = logstore.WalkBytes
	queryBytes  = logstore.WalkBytes + engineMemory
)

// routes are the paths below Prefix. "{}" stands for the name of a label or field.
var routes = map[string]route{
	"query":                    {(*API).instant, queryBytes},
	"query_range":              {(*API).ranged, queryBytes},
	"labels":                   {(*API).labels, lookupBytes},
	"label":                    {(*API).labels, lookupBytes},
	"label/{}/values":          {(*API).labelValues, lookupBytes},
	"series":                   {(*API).series, lookupBytes},
	"index/stats":              {(*API).stats, lookupBytes},
	"index/volume":             {(*API).volume, lookupBytes},
	"index/volume_range":       {(*API).volumeRange, lookupBytes},
	"patterns":                 {(*API).patterns, lookupBytes},
	"detected_labels":          {(*API).detectedLabels, lookupBytes},
	"detected_fields":          {(*API).detectedFields, lookupBytes},
	"detected_field/{}/values": {(*API).detectedValues, lookupBytes},
	"format_query":             {(*API).formatQuery, 0},
	"status/buildinfo":         {(*API).buildInfo, 0},
}

// find returns the route of a path below Prefix and the name in it.
func find(path string) (r route, name string, ok bool) {
	if r, ok = routes[path]; ok {
		return r, "", !strings.Contains(path, "{")
	}
	parts := strings.Split(path, "/")
	if len(parts) != 3 || parts[1] == "" {
		return route{}, "", false
	}
	r, ok = routes[parts[0]+"/{}/"+parts[2]]
	return r, parts[1], ok
}

// ServeHTTP answers a request below Prefix.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, below := strings.CutPrefix(r.URL.Path, Prefix)
	q := &request{w: w, r: r, now: time.Now(), leave: func() {}, room: a.opts.Answers}
	w.Header().Set("Cache-Control", "no-store")
	rt, name, ok := find(path)
	if !below || !ok && path != "tail" {
		a.fail(q, &httpError{code: http.StatusNotFound, text: fmt.Sprintf("there is nothing at %.200q", r.URL.Path)})
		return
	}
	q.name = name
	if err := q.readForm(); err != nil {
		a.fail(q, err)
		return
	}
	if path == "tail" {
		if err := a.tail(q); err != nil {
			a.fail(q, err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.opts.Timeout)
	defer cancel()
	if err := a.admitted(ctx, q, rt); err != nil {
		a.fail(q, err)
	}
}

// admitted serves the request once the store has room for it.
func (a *API) admitted(ctx context.Context, q *request, rt route) error {
	if rt.bytes > 0 {
		in, leave, err := a.opts.Store.Admit(ctx, rt.bytes)
		if err != nil {
			return err
		}
		defer leave()
		ctx, q.leave = in, leave
	}
	q.r = q.r.WithContext(ctx)
	return rt.serve(a, q)
}

// readForm reads the parameters of the URL and, with POST, those of the body. Unknown ones are passed over, as clients of
// Loki send what their version knows.
func (q *request) readForm() error {
	if q.r.Method == http.MethodPost {
		kind, _, err := mime.ParseMediaType(q.r.Header.Get("Content-Type"))
		if q.r.Header.Get("Content-Type") != "" && (err != nil || kind != "application/x-www-form-urlencoded") {
			return &httpError{
				code: http.StatusUnsupportedMediaType,
				text: "parameters come in the URL, or as a body of application/x-www-form-urlencoded",
			}
		}
		q.r.Body = http.MaxBytesReader(q.w, q.r.Body, MaxBody)
	}
	if err := q.r.ParseForm(); err != nil {
		if tooBig, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return &httpError{code: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("the form is larger than %d bytes", tooBig.Limit)}
		}
		return badf("the form cannot be read: %v", err)
	}
	q.form = q.r.Form
	return nil
}

// httpError is an error with its answer.
type httpError struct {
	code  int
	text  string
	retry string // seconds
}

func (e *httpError) Error() string { return e.text }

func badf(format string, args ...any) error {
	return &httpError{code: http.StatusBadRequest, text: fmt.Sprintf(format, args...)}
}

// statusGone is what is noted of a request whose client went away.
const statusGone = 499

// answerOf turns an error into its answer.
func answerOf(err error) *httpError {
	if e, ok := errors.AsType[*httpError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*logql.SyntaxError](err); ok {
		return &httpError{code: http.StatusBadRequest, text: e.Error()}
	}
	switch {
	case errors.Is(err, logql.ErrQuery), errors.Is(err, logstore.ErrRequest):
		return &httpError{code: http.StatusBadRequest, text: err.Error()}
	case errors.Is(err, answers.ErrFull):
		return &httpError{code: http.StatusTooManyRequests, text: err.Error() + ": repeat it in a moment, or ask for less", retry: "2"}
	case errors.Is(err, logstore.ErrBusy):
		return &httpError{code: http.StatusTooManyRequests, text: err.Error() + ": repeat it in a moment, or ask for less; limits.log_queries says how many run", retry: "2"}
	case errors.Is(err, context.DeadlineExceeded):
		return &httpError{code: http.StatusGatewayTimeout, text: "the query took longer than it may: ask for a shorter time, or raise limits.query_timeout"}
	case errors.Is(err, context.Canceled):
		return &httpError{code: statusGone, text: "the client went away"}
	case errors.Is(err, logstore.ErrClosed):
		return &httpError{code: http.StatusServiceUnavailable, text: "the log store of this node is closed or being replaced: repeat it, or ask another node", retry: "1"}
	case errors.Is(err, logstore.ErrDamaged):
		return &httpError{code: http.StatusServiceUnavailable, text: "the log store of this node is damaged: ask another node"}
	}
	return nil
}

// fail answers in plain text, as Loki does.
func (a *API) fail(q *request, err error) {
	e := answerOf(err)
	if e == nil {
		a.opts.Log.Warn("request of Loki's API failed", "path", q.r.URL.Path, "err", err)
		e = &httpError{code: http.StatusInternalServerError, text: "the node met an error that it has no name for; its log tells more"}
	}
	h := q.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if e.retry != "" {
		h.Set("Retry-After", e.retry)
	}
	q.w.WriteHeader(e.code)
	_, _ = io.WriteString(q.w, e.text+"\n") // the client is gone when this fails
}
