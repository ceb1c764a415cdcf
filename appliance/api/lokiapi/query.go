package lokiapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
)

// parse reads the query of a request.
func (q *request) parse() (logql.Expr, error) {
	text := q.form.Get("query")
	if text == "" {
		return nil, badf("parameter query is missing")
	}
	return logql.Parse(text)
}

// query answers a query for numbers at one time.
func (h *Handler) query(w http.ResponseWriter, q *request) error {
	x, err := q.parse()
	if err != nil {
		return err
	}
	at, err := q.time("time", q.now.UnixNano())
	if err != nil {
		return err
	}
	ctx, leave, err := h.opts.Store.Admit(q.Context(), logstore.WalkBytes)
	if err != nil {
		return err
	}
	defer leave()
	r, err := h.engine.Instant(ctx, x, at)
	if err != nil {
		return err
	}
	return send(w, envelope(r, false))
}

// queryRange answers a query over a range of time.
func (h *Handler) queryRange(w http.ResponseWriter, q *request) error {
	x, err := q.parse()
	if err != nil {
		return err
	}
	p, err := q.params(x)
	if err != nil {
		return err
	}
	ctx, leave, err := h.opts.Store.Admit(q.Context(), logstore.WalkBytes)
	if err != nil {
		return err
	}
	defer leave()
	r, err := h.engine.Range(ctx, x, p)
	if err != nil {
		return err
	}
	return send(w, envelope(r, p.Categorize && logql.IsLog(x)))
}

func (q *request) params(x logql.Expr) (p logql.Params, err error) {
	if p.Start, p.End, err = q.span(); err != nil {
		return p, err
	}
	step := max(time.Duration((p.End-p.Start)/250).Truncate(time.Second), time.Second)
	if p.Step, err = q.duration("step", step); err != nil {
		return p, err
	}
	if p.Interval, err = q.duration("interval", 0); err != nil {
		return p, err
	}
	if p.Limit, err = q.number("limit", 100, MaxEntries); err != nil && logql.IsLog(x) {
		return p, err
	}
	switch d := strings.ToLower(q.form.Get("direction")); d {
	case "", "backward":
	case "forward":
		p.Oldest = true
	default:
		return p, badf("parameter direction: %.40q, forward or backward is expected", d)
	}
	for _, flag := range strings.Split(q.Header.Get("X-Loki-Response-Encoding-Flags"), ",") {
		p.Categorize = p.Categorize || strings.TrimSpace(flag) == "categorize-labels"
	}
	return p, nil
}

// envelope writes an answer to a query.
func envelope(r *logql.Result, apart bool) []byte {
	dst := []byte(`{"status":"success","data":{`)
	if apart {
		dst = append(dst, `"encodingFlags":["categorize-labels"],`...)
	}
	dst = append(r.AppendJSON(dst), `,"stats":`...)
	dst = append(append(dst, marshal(statsOf(r))...), '}')
	if len(r.Warnings) > 0 {
		dst = append(append(dst, `,"warnings":`...), marshal(r.Warnings)...)
	}
	return append(dst, "}\n"...)
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // numbers and texts always encode
		return []byte("null")
	}
	return b
}

type summary struct {
	BytesPerSecond int64   `json:"bytesProcessedPerSecond"`
	LinesPerSecond int64   `json:"linesProcessedPerSecond"`
	TotalBytes     int64   `json:"totalBytesProcessed"`
	TotalLines     int64   `json:"totalLinesProcessed"`
	ExecTime       float64 `json:"execTime"` // seconds
	QueueTime      float64 `json:"queueTime"`
	Subqueries     int     `json:"subqueries"`
	Returned       int64   `json:"totalEntriesReturned"`
	PostFilter     int64   `json:"totalPostFilterLines"`
}

// queryStats is the statistics of Loki with our numbers, and ours beside them.
type queryStats struct {
	Summary summary `json:"summary"`
	Querier struct {
		Store struct {
			ChunksRef        int64 `json:"totalChunksRef"`
			ChunksDownloaded int64 `json:"totalChunksDownloaded"`
		} `json:"store"`
	} `json:"querier"`
	Triward struct {
		Considered int64    `json:"considered"`
		Skipped    int64    `json:"skipped"`
		Blocks     int64    `json:"blocks"`
		Partial    bool     `json:"partial"`
		Damaged    []string `json:"damaged,omitempty"`
	} `json:"triward"`
}

func statsOf(r *logql.Result) *queryStats {
	s := &queryStats{Summary: summary{
		TotalBytes: r.Stats.Bytes, TotalLines: r.Stats.Lines, ExecTime: r.Stats.Duration.Seconds(), Subqueries: 1, PostFilter: r.Stats.Kept,
	}}
	if secs := r.Stats.Duration.Seconds(); secs > 0 {
		s.Summary.BytesPerSecond, s.Summary.LinesPerSecond = int64(float64(r.Stats.Bytes)/secs), int64(float64(r.Stats.Lines)/secs)
	}
	for i := range r.Streams {
		s.Summary.Returned += int64(len(r.Streams[i].Entries))
	}
	s.Querier.Store.ChunksRef, s.Querier.Store.ChunksDownloaded = r.Stats.Considered, r.Stats.Blocks
	own := &s.Triward
	own.Considered, own.Skipped, own.Blocks, own.Partial, own.Damaged = r.Stats.Considered, r.Stats.Skipped, r.Stats.Blocks, r.Stats.Partial, r.Stats.Damaged
	return s
}

// format answers with the canonical form of a query.
func (h *Handler) format(w http.ResponseWriter, q *request) error {
	x, err := q.parse()
	if err != nil {
		return err
	}
	return send(w, success(x.String()))
}

func success(data any) []byte {
	return append(append([]byte(`{"status":"success","data":`), marshal(data)...), "}\n"...)
}
