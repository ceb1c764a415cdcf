package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

// Trailers of an export that is whole: an answer without them was cut.
const (
	// ExportLinesTrailer is the number of lines.
	ExportLinesTrailer = "X-Triward-Export-Lines"
	// ExportStatsTrailer is LogStats in JSON.
	ExportStatsTrailer = "X-Triward-Export-Stats"
	// ExportCursorTrailer is the cursor behind the last line.
	ExportCursorTrailer = "X-Triward-Export-Cursor"
)

var exportTypes = map[string]string{
	FormText: "text/plain; charset=utf-8", FormRaw: "application/octet-stream", FormJSONL: "application/x-ndjson",
	FormCSV: "text/csv; charset=utf-8",
}

func logExportRoute() Route {
	return Route{
		Method: "GET", Path: "/v1/logs/export", Permission: auth.Read, Long: true, Fresh: true, Type: exportTypes[FormJSONL],
		Summary: "All lines that match, as a stream of any length. Trailers (" + ExportLinesTrailer + ", " + ExportStatsTrailer +
			") end a whole answer; one that was cut ends without, and goes on with the cursor `t.pos` of its last line",
		Params: with(logRange, orderParam("oldest"),
			Param{Name: "format", Kind: paramChoice, Choices: LogForms, Default: FormJSONL, Doc: "form of a line"},
			Param{Name: "columns", Kind: paramText, MaxLen: 8 << 10, Doc: "of CSV, parted by commas: time, t, pos, kind, severity, text, text_b64, or names of labels and fields"},
			Param{Name: "bom", Kind: paramChoice, Choices: []string{"true", "false"}, Default: "false", Doc: "CSV begins with a byte order mark, by which Excel knows that it is UTF-8"},
			Param{Name: "end_line", Kind: paramChoice, Choices: []string{"true", "false"}, Default: "false", Doc: "JSON lines of a whole answer end with {\"end\":{\"lines\":…,\"cursor\":…,\"stats\":…}}, for who gets no trailers"},
			Param{Name: "limit", Kind: paramInt, Min: 1, Max: 1 << 53, Doc: "how many lines at most; all when absent"},
			Param{Name: "cursor", Kind: paramText, MaxLen: 512, Doc: "go on behind this line: its t and pos with a dot between; CSV has no first line then"}),
		serve: (*API).logsExport,
	}
}

// flushEvery is how long lines wait for others before they are sent.
const flushEvery = time.Second

func (a *API) logsExport(q *request) error {
	// A page of somebody else's could make a browser ask for this; the node would work for nothing.
	if site := q.r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return problem.New(http.StatusForbidden, "the request comes from a page of another origin")
	}
	ask, err := q.logQuery()
	if err != nil {
		return err
	}
	columns := DefaultColumns
	if list := q.v.str("columns"); list != "" {
		if columns, err = ParseColumns(list); err != nil {
			return badParam("columns", "%v", err)
		}
	}
	e := &logExport{q: q, rc: http.NewResponseController(q.w)}
	e.out = bufio.NewWriterSize(&patientWriter{w: q.w, rc: e.rc}, 64<<10)
	e.lines = NewLogWriter(e.out, q.v.str("format"), columns)
	stats, err := q.logs.Export(q.ctx(), ask, func() func(*LogRow) error { return e.begin(ask.Cursor == "") })
	switch {
	case err != nil && !e.begun:
		return err
	case err == nil:
		err = e.finish(&stats)
	default:
		_ = e.lines.Cut(a.problemOf(err).Detail, e.cursor) // whoever is gone is not told
		_ = e.flush()
	}
	if err != nil {
		a.log.Warn("export of lines was cut short", "request", q.id, "lines", e.count, "err", err)
		panic(http.ErrAbortHandler) // the connection must not end as if all was well
	}
	return nil
}

// logExport is an export on its way to a client.
type logExport struct {
	q       *request
	rc      *http.ResponseController
	out     *bufio.Writer
	lines   *LogWriter
	begun   bool
	count   int64
	cursor  string
	flushed time.Time
}

// begin sends the head of the answer and returns what takes the lines.
func (e *logExport) begin(head bool) func(*LogRow) error {
	e.begun = true
	form := e.lines.form
	h := e.q.w.Header()
	h.Set("Content-Type", exportTypes[form])
	name := "triward-logs-" + strconv.FormatInt(e.q.now.Unix(), 10) + "." + map[string]string{FormText: "txt", FormRaw: "log", FormJSONL: "jsonl", FormCSV: "csv"}[form]
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	var failed error
	if head {
		if form == FormCSV && e.q.v.str("bom") == "true" {
			_, failed = e.out.WriteString("\ufeff")
		}
		failed = errors.Join(failed, e.lines.Head())
	}
	e.q.w.WriteHeader(http.StatusOK)
	failed = errors.Join(failed, e.flush()) // so that the client knows that it is on its way, however long the first line takes
	return func(r *LogRow) error {
		if failed == nil {
			failed = e.lines.Line(r)
		}
		if failed != nil {
			return fmt.Errorf("send line: %w", failed)
		}
		e.count++
		e.cursor = r.Cursor()
		if time.Since(e.flushed) > flushEvery {
			failed = e.flush()
		}
		return failed
	}
}

func (e *logExport) flush() error {
	e.flushed = time.Now()
	if err := e.out.Flush(); err != nil {
		return err
	}
	if err := e.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// finish sends the trailers of a whole answer.
func (e *logExport) finish(stats *LogStats) error {
	if e.q.v.str("end_line") == "true" {
		if err := e.lines.End(&ExportEnd{Lines: e.count, Cursor: e.cursor, Stats: *stats}); err != nil {
			return err
		}
	}
	if err := e.flush(); err != nil {
		return err
	}
	told, err := json.Marshal(stats)
	if err != nil {
		return err
	}
	h := e.q.w.Header()
	h.Set(http.TrailerPrefix+ExportLinesTrailer, strconv.FormatInt(e.count, 10))
	h.Set(http.TrailerPrefix+ExportStatsTrailer, string(told))
	h.Set(http.TrailerPrefix+ExportCursorTrailer, e.cursor)
	return nil
}
