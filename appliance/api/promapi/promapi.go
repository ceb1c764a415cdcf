// Package promapi serves the Prometheus HTTP API (/api/v1/…) on the metrics store, in Prometheus' own form: the
// handlers are those of the library, so that Grafana and other clients see what they know.
//
// It owns which of the library's routes are served and the bounds in front of them: size of bodies, number of
// selectors and results, time, and how many requests run at once. Roles, sessions and the wait for a consistent
// state are put around it by the caller. It must not import other parts of the appliance.
package promapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	promv1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/triward/triward/tsdb"
)

// Bounds of a request.
const (
	MaxBody    = 1 << 20 // bytes of a form or of a remote read
	MaxResults = 100_000 // series, label names or label values in one answer
)

// PrometheusVersion is the release whose API this is; clients choose their features by it.
const PrometheusVersion = "3.14.0"

// Options of the API. The zero value of a field means its default; Query and Logger have none.
type Options struct {
	Query  *tsdb.Query
	Logger *slog.Logger
	// Registerer takes the API's own metrics; nil: none.
	Registerer prometheus.Registerer
	// Gatherer is asked for figures of the head of the store; nil: they are absent.
	Gatherer prometheus.Gatherer
	// Metadata returns type, help and unit by metric name; nil: nothing is known of any.
	Metadata func(ctx context.Context) (map[string][]Metadata, error)
	// Rules returns the groups of rules with their alerts; nil: there are none.
	Rules func() []RuleGroup
	// Version is Triward's, shown as the revision.
	Version string
	// Retention is shown by status/runtimeinfo.
	Retention func() string
	// Concurrent bounds requests that look up series and labels or read remotely: 8. Queries are bounded by
	// tsdb.QueryOptions.
	Concurrent int
}

// Metadata describes a metric in the form of the API.
type Metadata struct {
	Type string `json:"type"`
	Help string `json:"help"`
	Unit string `json:"unit"`
}

// New returns the handler of all paths below /api/v1/ that it serves; others answer 404.
func New(opts Options) http.Handler {
	if opts.Gatherer == nil {
		opts.Gatherer = prometheus.NewRegistry()
	}
	if opts.Retention == nil {
		opts.Retention = func() string { return "" }
	}
	if opts.Concurrent <= 0 {
		opts.Concurrent = 8
	}
	started := time.Now()
	return &handler{
		opts: opts, lookups: make(chan struct{}, opts.Concurrent),
		// At the first request: the library also makes descriptions in OpenAPI, which are not served and took four fifths of
		// the CPU time that a node needs to be put together.
		library: sync.OnceValue(func() http.Handler {
			router := route.New().WithPrefix("/api/v1")
			library(opts, started).Register(router)
			return router
		}),
	}
}

// library makes the library's API with nothing behind those routes that are not ours.
func library(opts Options, started time.Time) *promv1.API {
	store := opts.Query.Store()
	none := nothing{}
	return promv1.NewAPI(
		opts.Query.Engine(), store, nil, nil, store,
		func(context.Context) promv1.ScrapePoolsRetriever { return none },
		func(context.Context) promv1.TargetRetriever { return none },
		func(context.Context) promv1.AlertmanagerRetriever { return none },
		func() config.Config { return config.Config{} },
		map[string]string{},
		promv1.GlobalURLOptions{},
		func(f http.HandlerFunc) http.HandlerFunc { return f },
		admin{store}, "", false, // no administration of the store by this way
		false, 0, // no search
		opts.Logger,
		func(context.Context) promv1.RulesRetriever { return none },
		50_000_000, 2, 1<<20, // remote read: samples, requests at once, bytes in a frame
		false,
		regexp.MustCompile(`^$`), // no other origin may read answers
		func() (promv1.RuntimeInfo, error) { return runtimeInfo(opts, started), nil },
		&promv1.PrometheusVersion{
			Version: PrometheusVersion, Revision: opts.Version, Branch: "triward", GoVersion: runtime.Version(),
		},
		none.notifications, none.subscribe,
		opts.Gatherer, opts.Registerer,
		nil,        // statistics as the library renders them
		false, nil, // no remote write here
		false, false, false, // no OTLP here
		false,
		tsdb.Lookback,
		false, false,
		overrideCode,
		nil,
		promv1.OpenAPIOptions{IncludePaths: []string{"none"}}, // not served
		opts.Query.Parser(),
	)
}

// overrideCode tells clients to ask again where the query is not to blame.
func overrideCode[N any](_ N, err error) (int, bool) {
	if errors.Is(err, tsdb.ErrSwapped) || errors.Is(err, tsdb.ErrClosed) {
		return http.StatusServiceUnavailable, true
	}
	return 0, false
}

func runtimeInfo(opts Options, started time.Time) promv1.RuntimeInfo {
	host, _ := os.Hostname() // shown only; empty when the system does not tell
	return promv1.RuntimeInfo{
		StartTime: started.UTC(), CWD: "/", Hostname: host, ServerTime: time.Now().UTC(),
		ReloadConfigSuccess: true, LastConfigTime: started.UTC(),
		GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0), GOMEMLIMIT: debug.SetMemoryLimit(-1),
		GOGC: os.Getenv("GOGC"), GODEBUG: os.Getenv("GODEBUG"), StorageRetention: opts.Retention(),
	}
}

type handler struct {
	opts    Options
	library func() http.Handler
	lookups chan struct{}
}

// kind says how a path is bounded.
type kind int

const (
	kindEngine kind = iota + 1 // the engine bounds time and number
	kindLookup                 // bounded here
	kindRead                   // a lookup with a body that is no form
	kindStatus                 // cheap
)

// served returns how a path below /api/v1/ is bounded, 0 when it is not served.
func served(path string) kind {
	switch path {
	case "query", "query_range":
		return kindEngine
	case "query_exemplars", "series", "labels", "status/tsdb":
		return kindLookup
	case "read":
		return kindRead
	case "format_query", "parse_query", "metadata", "rules", "alerts", "targets", "targets/metadata", "scrape_pools",
		"alertmanagers", "status/buildinfo", "status/runtimeinfo", "status/config", "status/flags":
		return kindStatus
	}
	if name, ok := strings.CutPrefix(path, "label/"); ok && strings.HasSuffix(name, "/values") && strings.Count(name, "/") == 1 {
		return kindLookup
	}
	return 0
}

// ServeHTTP answers a request below /api/v1/.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, _ := strings.CutPrefix(r.URL.Path, "/api/v1/")
	k := served(path)
	if k == 0 {
		fail(w, http.StatusNotFound, "not_found", fmt.Errorf("no such path: %.100q", r.URL.Path))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	if k == kindRead {
		if err := boundRead(r); err != nil {
			failBody(w, err)
			return
		}
	} else if err := boundForm(r); err != nil {
		failBody(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.opts.Query.Timeout())
	defer cancel()
	r = r.WithContext(ctx)
	if k == kindLookup || k == kindRead {
		select {
		case h.lookups <- struct{}{}:
			defer func() { <-h.lookups }()
		case <-ctx.Done():
			w.Header().Set("Retry-After", "5")
			fail(w, http.StatusServiceUnavailable, "timeout", errors.New("too many requests before this one; try again"))
			return
		}
	}
	if path == "metadata" && h.opts.Metadata != nil {
		h.metadata(w, r)
		return
	}
	if h.opts.Rules != nil {
		switch path {
		case "rules":
			h.rules(w, r)
			return
		case "alerts":
			h.alerts(w)
			return
		}
	}
	h.library().ServeHTTP(w, r)
}

var errRuleType = errors.New("not supported value for type; want alert or record")

// boundForm reads the form and bounds what the library does not.
func boundForm(r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return fmt.Errorf("form: %w", err)
	}
	if n := len(r.Form["match[]"]); n > tsdb.MaxSelectors {
		return fmt.Errorf("%d times match[]: %w", n, tsdb.ErrTooManySelectors)
	}
	if strings.HasSuffix(r.URL.Path, "/query") || strings.HasSuffix(r.URL.Path, "/query_range") {
		return nil // their limit cuts the answer, after the engine has bounded it
	}
	if n, err := strconv.ParseUint(r.Form.Get("limit"), 10, 64); r.Form.Get("limit") == "" || err == nil && (n == 0 || n > MaxResults) {
		if strings.HasSuffix(r.URL.Path, "/series") || strings.Contains(r.URL.Path, "/label") {
			r.Form.Set("limit", strconv.Itoa(MaxResults))
		}
	}
	return nil
}

// metadata answers from what agents told.
func (h *handler) metadata(w http.ResponseWriter, r *http.Request) {
	limit, err1 := optionalInt(r, "limit")
	perMetric, err2 := optionalInt(r, "limit_per_metric")
	if err := errors.Join(err1, err2); err != nil {
		fail(w, http.StatusBadRequest, "bad_data", err)
		return
	}
	all, err := h.opts.Metadata(r.Context())
	if err != nil {
		fail(w, http.StatusInternalServerError, "internal", err)
		return
	}
	out := make(map[string][]Metadata)
	only := r.Form.Get("metric")
	for name, list := range all {
		if only != "" && name != only {
			continue
		}
		if limit >= 0 && len(out) >= limit {
			break
		}
		if perMetric > 0 && len(list) > perMetric {
			list = list[:perMetric]
		}
		out[name] = list
	}
	write(w, http.StatusOK, map[string]any{"status": "success", "data": out})
}

func optionalInt(r *http.Request, name string) (int, error) {
	s := r.Form.Get(name)
	if s == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%s must be a number", name)
	}
	return n, nil
}

func failBody(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "bad_data", fmt.Errorf("the body is larger than %d bytes", tooLarge.Limit))
		return
	}
	fail(w, http.StatusBadRequest, "bad_data", err)
}

// fail answers in the API's form of an error.
func fail(w http.ResponseWriter, code int, kind string, err error) {
	write(w, code, struct {
		Status    string `json:"status"`
		ErrorType string `json:"errorType"`
		Error     string `json:"error"`
	}{"error", kind, err.Error()})
}

func write(w http.ResponseWriter, code int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(b) // the client is gone when this fails
}
