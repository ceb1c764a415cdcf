package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/api"
)

func newLogsExport(s streams, t *target) *cobra.Command {
	var when span
	var form, columns, order, cursor string
	var limit int64
	var stats bool
	c := &cobra.Command{
		Use:   "export [QUERY]",
		Short: "Print all lines that match, however many, in a form for other programs",
		Long: `Prints every line of the span that matches, oldest first, as a stream: memory is bounded on the node and here. When the
connection is lost it goes on behind the last line, at another node if need be, so that no line is printed twice or missing.
What is printed is whole when the exit code is 0. When it cannot go on it says with which --cursor it will.

Forms: jsonl, one object a line with everything that is known of a line (text_b64 is the text of a line that is no UTF-8);
text, for people; raw, the text of lines byte for byte; csv, the columns of --columns, where cells that a spreadsheet would take
for a formula begin with '.`,
		Example: "  triward logs export 'host:web-1 error' --start now-7d > errors.jsonl\n" +
			"  triward logs export 'sshd failed' --format csv --columns time,host,user,text --start now-24h > failed.csv",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(api.LogForms, form) {
				return fmt.Errorf("--format %q: want %s", form, strings.Join(api.LogForms, ", "))
			}
			if order != "oldest" && order != "newest" {
				return fmt.Errorf("--order %q: want oldest or newest", order)
			}
			if limit < 0 {
				return fmt.Errorf("--limit %d: want at least 1, or 0 for all", limit)
			}
			var list []string
			if columns != "" {
				var err error
				if list, err = api.ParseColumns(columns); err != nil {
					return fmt.Errorf("--columns: %w", err)
				}
			}
			l := &logQuestion{t: t, s: s, when: when}
			q, cl, err := l.ask(strings.Join(args, ""))
			if err != nil {
				return err
			}
			q.Set("order", order)
			q.Set("format", api.FormJSONL)
			q.Set("end_line", "true")
			out := bufio.NewWriterSize(s.out, 64<<10)
			e := &exporter{client: cl, query: q, cursor: cursor, left: limit, lines: api.NewLogWriter(out, form, list), out: out, err: s.err}
			if cursor == "" {
				if err := e.lines.Head(); err != nil {
					return err
				}
			}
			err = e.run(c.Context())
			if err := errors.Join(err, out.Flush()); err != nil {
				if e.cursor != "" {
					return &cutExport{err: err, lines: e.count, cursor: e.cursor}
				}
				return err
			}
			if tellStats(s.err, &e.stats, stats) != nil {
				return errors.New("the export is not whole")
			}
			return nil
		},
	}
	f := c.Flags()
	when.flags(c, "now-24h")
	f.StringVar(&form, "format", api.FormJSONL, strings.Join(api.LogForms, ", "))
	f.StringVar(&columns, "columns", "", "of csv: time, t, pos, kind, severity, text, text_b64, or labels and fields; default "+strings.Join(api.DefaultColumns, ","))
	f.StringVar(&order, "order", "oldest", "which lines come first: oldest or newest")
	f.Int64Var(&limit, "limit", 0, "most lines to print; 0: all")
	f.StringVar(&cursor, "cursor", "", "go on behind this line")
	f.BoolVar(&stats, "stats", false, "say what the answer cost")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(api.LogForms, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("order", cobra.FixedCompletions([]string{"oldest", "newest"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// cutExport says where an export ended and how to go on.
type cutExport struct {
	err    error
	lines  int64
	cursor string
}

// Error returns what happened and the remedy.
func (e *cutExport) Error() string {
	return fmt.Sprintf("the export is cut after %d lines: %v; the same command with --cursor %s goes on", e.lines, e.err, e.cursor)
}

// Unwrap returns the cause.
func (e *cutExport) Unwrap() error { return e.err }

// exporter takes an export from one node after another until it is whole.
type exporter struct {
	client *client
	query  url.Values
	cursor string // behind the last line that was written
	left   int64  // lines wanted, 0 for all
	lines  *api.LogWriter
	out    *bufio.Writer
	err    io.Writer
	count  int64
	stats  api.LogStats
}

// exportTries is how many times in a row an export is begun that brings nothing.
const exportTries = 5

func (e *exporter) run(ctx context.Context) error {
	for failed := 0; ; {
		before := e.count
		done, err := e.take(ctx)
		if err == nil && done {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		said, refused := errors.AsType[*apiError](err)
		if written, ok := errors.AsType[*writeError](err); ok || refused && said.Status/100 == 4 && said.Status != http.StatusTooManyRequests {
			if ok {
				return written.err
			}
			return err
		}
		if failed++; e.count > before {
			failed = 1
		}
		if failed > exportTries*len(e.client.urls) {
			return err
		}
		fmt.Fprintf(e.err, "connection lost after %d lines, going on: %s\n", e.count, printable(err.Error()))
		e.client.urls = append(e.client.urls[1:], e.client.urls[0])
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(failed) * 100 * time.Millisecond):
		}
	}
}

// behind reports whether a line comes behind the last one that was written.
func (e *exporter) behind(next string) bool {
	a, b := strings.Split(e.cursor, "."), strings.Split(next, ".")
	for i := range min(len(a), len(b)) {
		x, xerr := strconv.ParseUint(a[i], 10, 64)
		y, yerr := strconv.ParseUint(b[i], 10, 64)
		if xerr != nil || yerr != nil {
			return false
		}
		if x != y {
			return (x < y) == (e.query.Get("order") != "newest")
		}
	}
	return false
}

// writeError is an error which no other node mends.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }

// maxExportLine bounds a line of an export: text and fields of the longest line, escaped.
const maxExportLine = 128 << 20

// take writes what one node sends. done says that the node had no more.
func (e *exporter) take(ctx context.Context) (done bool, err error) {
	q := url.Values{}
	for k, v := range e.query {
		q[k] = v
	}
	if e.cursor != "" {
		q.Set("cursor", e.cursor)
	}
	if e.left > 0 {
		if e.left <= e.count {
			return true, nil
		}
		q.Set("limit", strconv.FormatInt(e.left-e.count, 10))
	}
	if e.client.index > 0 { // what the first node showed, the next one has too
		q.Set("min_index", strconv.FormatUint(e.client.index, 10))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := e.client.reach(ctx, http.MethodGet, "/v1/logs/export?"+q.Encode(), nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what could not be read says less
		return false, newAPIError(resp, said)
	}
	if index, err := strconv.ParseUint(resp.Header.Get(indexHeader), 10, 64); err == nil {
		e.client.index = max(e.client.index, index)
	}
	in := bufio.NewReaderSize(resp.Body, 256<<10)
	var sent int64
	for {
		line, err := readLine(in, maxExportLine)
		if errors.Is(err, io.EOF) {
			return false, fmt.Errorf("%s sent %d lines and did not say that this is all", resp.Request.URL.Host, sent)
		}
		if err != nil {
			return false, fmt.Errorf("read lines of %s: %w", resp.Request.URL.Host, err)
		}
		var row struct {
			api.LogRow
			Error string         `json:"error"`
			End   *api.ExportEnd `json:"end"`
		}
		if err := json.Unmarshal(line, &row); err != nil {
			return false, fmt.Errorf("line of %s is not what this program expects: %w", resp.Request.URL.Host, err)
		}
		if row.Error != "" {
			return false, fmt.Errorf("%s: %s", resp.Request.URL.Host, row.Error)
		}
		if row.End != nil {
			if row.End.Lines != sent {
				return false, fmt.Errorf("%s sent %d lines and says that it sent %d", resp.Request.URL.Host, sent, row.End.Lines)
			}
			e.stats.Add(&row.End.Stats)
			return true, nil
		}
		if e.cursor != "" && !e.behind(row.Cursor()) {
			return false, &writeError{fmt.Errorf("%s sends lines twice: %s after %s", resp.Request.URL.Host, row.Cursor(), e.cursor)}
		}
		if err := e.lines.Line(&row.LogRow); err != nil {
			return false, &writeError{err}
		}
		sent++
		e.count++
		e.cursor = row.Cursor()
	}
}

// readLine reads up to a newline, which it takes off. The line is valid until the next read. A line without one at the end was cut.
func readLine(in *bufio.Reader, most int) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], nil
	}
	whole := slices.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) && len(whole) <= most {
		line, err = in.ReadSlice('\n')
		whole = append(whole, line...)
	}
	switch {
	case len(whole) > most:
		return nil, fmt.Errorf("a line is longer than %d bytes", most)
	case errors.Is(err, io.EOF) && len(whole) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	return whole[:len(whole)-1], nil
}
