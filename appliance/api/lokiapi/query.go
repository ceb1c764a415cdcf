package lokiapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/triward/triward/logstore/logql"
)

// instant answers query: numbers at one time.
func (a *API) instant(q *request) error {
	expr, err := q.expr()
	if err != nil {
		return err
	}
	t, err := q.time("time", q.now.UnixNano())
	if err != nil {
		return err
	}
	if _, err := q.number("limit", 100, maxLimit); err != nil {
		return err
	}
	if _, err := q.oldest(); err != nil {
		return err
	}
	r, err := a.engine.Instant(q.ctx(), expr, t)
	if err != nil {
		return err
	}
	return a.whole(q, r)
}

// ranged answers query_range: lines, or numbers step by step.
func (a *API) ranged(q *request) error {
	expr, err := q.expr()
	if err != nil {
		return err
	}
	p := logql.Params{Categorize: q.categorizes()}
	if p.Start, p.End, err = q.span(time.Hour); err != nil {
		return err
	}
	if p.Step, err = q.step(p.Start, p.End); err != nil {
		return err
	}
	if p.Limit, err = q.number("limit", 100, maxLimit); err != nil {
		return err
	}
	if p.Oldest, err = q.oldest(); err != nil {
		return err
	}
	if s := q.form.Get("interval"); s != "" {
		if p.Interval, err = parseDuration(s); err != nil || p.Interval < 0 {
			return badf("parameter interval: %.40q is no duration such as 10s", s)
		}
	}
	r, err := a.engine.Range(q.ctx(), expr, p)
	if err != nil {
		return err
	}
	return a.whole(q, r)
}

// PartialHeader is set in the answer to a query that lacks what is damaged on the node.
const PartialHeader = "X-Triward-Partial"

type aloneKey struct{}

// Alone returns a context of requests that are answered as this node can, without asking another one.
func Alone(ctx context.Context) context.Context { return context.WithValue(ctx, aloneKey{}, true) }

// IsAlone reports whether the context is of a request that Alone is of.
func IsAlone(ctx context.Context) bool {
	alone, _ := ctx.Value(aloneKey{}).(bool)
	return alone
}

// whole writes a result, or has another node answer when this one's lacks something.
func (a *API) whole(q *request, r *logql.Result) error {
	q.leave()
	if a.elsewhere(q, r.Stats.Partial) {
		return nil
	}
	release, err := a.opts.Answers.Hold(q.ctx(), sizeOf(r))
	if err != nil {
		return err
	}
	defer release()
	return q.result(r)
}

// elsewhere has another node answer when this one's answer lacks something, and reports whether it did. Where none does, the
// answer says that it is partial.
func (a *API) elsewhere(q *request, partial bool) bool {
	if !partial {
		return false
	}
	q.leave()
	if !IsAlone(q.ctx()) && a.opts.Elsewhere != nil && a.opts.Elsewhere(q.w, q.r) {
		return true
	}
	q.w.Header().Set(PartialHeader, "true")
	return false
}

// sizeOf is about what a result takes.
func sizeOf(r *logql.Result) (n int64) {
	const label, entry, point, series = 64, 96, 32, 128
	for i := range r.Streams {
		s := &r.Streams[i]
		n += series + int64(len(s.Labels))*label
		for k := range s.Entries {
			e := &s.Entries[k]
			n += entry + int64(len(e.Line)) + int64(len(e.Fields)+len(e.Parsed))*label
		}
	}
	for i := range r.Vector {
		n += series + int64(len(r.Vector[i].Labels))*label
	}
	for i := range r.Matrix {
		n += series + int64(len(r.Matrix[i].Labels))*label + int64(len(r.Matrix[i].Points))*point
	}
	return n
}

// oldest reads the direction.
func (q *request) oldest() (bool, error) {
	switch d := q.form.Get("direction"); strings.ToLower(d) {
	case "", "backward":
		return false, nil
	case "forward":
		return true, nil
	default:
		return false, badf("parameter direction: %.40q is neither forward nor backward", d)
	}
}

// encodingHeader lists what the client understands beyond the first form of answers, separated by commas.
const encodingHeader = "X-Loki-Response-Encoding-Flags"

const categorize = "categorize-labels"

// categorizes reports whether the client wants the labels of streams, structured metadata and parsed labels told apart.
func (q *request) categorizes() bool {
	for _, header := range q.r.Header.Values(encodingHeader) {
		for flag := range strings.SplitSeq(header, ",") {
			if strings.TrimSpace(flag) == categorize {
				return true
			}
		}
	}
	return false
}

// result writes the answer to a query. What was read is in memory; its JSON is made and sent piece by piece.
func (q *request) result(r *logql.Result) error {
	w := q.begin()
	w.text(`{"status":"success","data":{`)
	if flags := q.categorizes() && r.Kind == logql.Streams; flags {
		w.text(`"resultType":"streams","encodingFlags":["` + categorize + `"],"result":[`)
		w.streams(r.Streams, true)
		w.text(`]`)
	} else if r.Kind == logql.Streams {
		w.text(`"resultType":"streams","result":[`)
		w.streams(r.Streams, false)
		w.text(`]`)
	} else {
		w.buf = r.AppendJSON(w.buf)
	}
	w.text(`,"stats":`)
	w.json(statsOf(r))
	w.text(`}`)
	w.warnings(r.Warnings)
	w.text("}\n")
	w.flush()
	return nil
}

// streams writes lines. With categories every line has an object behind it, also an empty one: that is how clients read them.
func (w *writer) streams(list []logql.Stream, categories bool) {
	for i := range list {
		s := &list[i]
		if i > 0 {
			w.text(`,`)
		}
		w.text(`{"stream":`)
		w.json(s.Labels.Map())
		w.text(`,"values":[`)
		for k := range s.Entries {
			if k > 0 {
				w.text(`,`)
			}
			w.buf = logql.AppendEntry(w.buf, &s.Entries[k], categories)
			w.spill()
		}
		w.text(`]}`)
	}
}

// object is a JSON object.
type object = map[string]any

// statsOf puts what an evaluation cost where Loki's clients look: the lines and bytes read, and the blocks as chunks of
// the store. What Triward counts beyond that is under "triward".
func statsOf(r *logql.Result) object {
	s := &r.Stats
	seconds := s.Duration.Seconds()
	perSecond := func(n int64) int64 {
		if seconds <= 0 {
			return n
		}
		return int64(float64(n) / seconds)
	}
	returned := 0
	for i := range r.Streams {
		returned += len(r.Streams[i].Entries)
	}
	chunk := object{
		"headChunkBytes": 0, "headChunkLines": 0, "decompressedBytes": s.Bytes, "decompressedLines": s.Lines,
		"compressedBytes": 0, "totalDuplicates": 0, "postFilterLines": s.Kept,
	}
	store := object{
		"totalChunksRef": s.Considered, "totalChunksDownloaded": s.Blocks, "chunksDownloadTime": 0, "chunk": chunk,
	}
	none := object{
		"totalChunksRef": 0, "totalChunksDownloaded": 0, "chunksDownloadTime": 0, "chunk": object{
			"headChunkBytes": 0, "headChunkLines": 0, "decompressedBytes": 0, "decompressedLines": 0,
			"compressedBytes": 0, "totalDuplicates": 0, "postFilterLines": 0,
		},
	}
	return object{
		"summary": object{
			"bytesProcessedPerSecond": perSecond(s.Bytes), "linesProcessedPerSecond": perSecond(s.Lines),
			"totalBytesProcessed": s.Bytes, "totalLinesProcessed": s.Lines, "execTime": seconds, "queueTime": 0, "subqueries": 0,
			"totalEntriesReturned": returned, "splits": 0, "shards": 0, "totalPostFilterLines": s.Kept,
			"totalStructuredMetadataBytesProcessed": 0,
		},
		"querier": object{"store": store},
		"ingester": object{
			"totalReached": 0, "totalChunksMatched": 0, "totalBatches": 0, "totalLinesSent": 0, "store": none,
		},
		"triward": object{
			"blocksConsidered": s.Considered, "blocksSkipped": s.Skipped, "blocksOpened": s.Blocks, "partial": s.Partial, "damaged": s.Damaged,
		},
	}
}

// formatQuery answers format_query, the only route whose errors are JSON.
func (a *API) formatQuery(q *request) error {
	expr, err := q.expr()
	if err != nil {
		return q.answer(http.StatusBadRequest, struct {
			Status string `json:"status"`
			Error  string `json:"error"`
		}{"invalid-query", answerOf(err).text})
	}
	return q.data(expr.String())
}
