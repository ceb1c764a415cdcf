package cli

import (
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

	"github.com/gorilla/websocket"
	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore/logql/syntax"
)

// logAnswer is a page of lines; each is an api.LogRow.
type logAnswer struct {
	Rows  []json.RawMessage `json:"rows"`
	Next  string            `json:"next"`
	Stats api.LogStats      `json:"stats"`
}

func newLogs(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "logs", Short: "Search logs, or follow them as they come", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newLogsQuery(s, &t), newLogsTail(s, &t), newLogsContext(s, &t), newLogsHits(s, &t), newLogsTop(s, &t), newLogsPatterns(s, &t), newLogsLabels(s, &t),
		newLogsSeries(s, &t), newLogsExport(s, &t), newLogsLs(s, &t), newLogsCat(s, &t), newLogsArchive(s, &t), newLogsImport(s, &t), newLogsSuggest(s, &t))
	return c
}

func newLogsQuery(s streams, t *target) *cobra.Command {
	l := &logQuestion{t: t, s: s}
	var limit int
	var oldest, ids bool
	var step time.Duration
	c := l.command(&cobra.Command{
		Use:   "query QUERY",
		Short: "Search logs, newest first, or ask for numbers over them in LogQL",
		Example: "  triward logs query error\n  triward logs query '\"connection refused\" AND host:db1' --start now-6h --limit 1000\n" +
			"  triward logs query 'sum by (host) (count_over_time({source=\"journal\"} |= \"error\" [24h]))'\n" +
			"  triward logs query 'sum by (host) (rate({source=\"journal\"} |= \"error\" [5m]))' --start now-6h --step 5m",
	}, "now-24h", func(ctx context.Context, cl *client, q url.Values) error {
		if step != 0 {
			return errors.New("--step is of queries for numbers, which begin with a function: rate({source=\"journal\"}[5m])")
		}
		if limit < 1 {
			return errors.New("--limit must be at least 1")
		}
		if oldest {
			q.Set("order", "oldest")
		}
		return l.rows(ctx, cl, q, limit, ids)
	})
	lines := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if text := strings.Join(args, ""); syntax.ForNumbers(text) {
			return l.numbers(c, text, step)
		}
		return lines(c, args)
	}
	c.Flags().IntVar(&limit, "limit", 200, "most lines to print")
	c.Flags().BoolVar(&oldest, "oldest", false, "oldest first")
	c.Flags().DurationVar(&step, "step", 0, "numbers: distance of the points from --start to --end; without it they are of --end alone")
	c.Flags().BoolVar(&ids, "ids", false, "print in front of each line its id for `triward logs context`")
	return c
}

// pageLines is the most that one request may ask for.
const pageLines = 5000

// rows prints up to limit lines, page by page: a table as text, JSON as one row a line.
func (l *logQuestion) rows(ctx context.Context, cl *client, q url.Values, limit int, ids bool) error {
	var all api.LogStats
	err := pages(ctx, cl, "/v1/logs/query", q, limit, func(a *logAnswer) (int, string, error) {
		all.Add(&a.Stats)
		return len(a.Rows), a.Next, printRows(l.s.out, &l.form, a.Rows, ids)
	})
	if err == nil {
		err = l.tell(&all)
	}
	return err
}

// pages asks for up to limit items, page by page, and gives each page to print, which returns how many it held and the
// cursor of the next.
func pages[A any](ctx context.Context, cl *client, path string, q url.Values, limit int, print func(*A) (n int, next string, err error)) error {
	for limit > 0 {
		q.Set("limit", strconv.Itoa(min(limit, pageLines)))
		var answer A
		if err := cl.get(ctx, path, q, &answer); err != nil {
			return err
		}
		n, next, err := print(&answer)
		if err != nil {
			return err
		}
		if next == "" || n == 0 {
			return nil
		}
		limit -= n
		q.Set("cursor", next)
	}
	return nil
}

func printRows(out io.Writer, form *outputForm, rows []json.RawMessage, ids bool) error {
	for _, raw := range rows {
		if form.json() {
			if _, err := fmt.Fprintf(out, "%s\n", raw); err != nil {
				return err
			}
			continue
		}
		var r api.LogRow
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("row of the answer: %w", err)
		}
		line := rowLine(&r)
		if ids {
			line = printable(r.Cursor()) + " " + line
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}

// rowLine is a line as people read it.
func rowLine(r *api.LogRow) string {
	when := r.T
	if ns, err := strconv.ParseInt(r.T, 10, 64); err == nil {
		when = time.Unix(0, ns).Format("2006-01-02 15:04:05.000")
	}
	source := r.Labels["unit"]
	for _, name := range []string{"file", "source"} {
		if source == "" {
			source = r.Labels[name]
		}
	}
	if r.Kind == "event" {
		source = "event " + r.Labels["name"]
	}
	text := strings.ReplaceAll(r.Text, "\n", " ⏎ ")
	var fields []string
	for k, v := range r.Fields {
		fields = append(fields, k+"="+v)
	}
	slices.Sort(fields)
	if len(fields) > 0 {
		text += "  [" + strings.Join(fields, " ") + "]"
	}
	return printable(fmt.Sprintf("%s %-8s %s %s: %s", when, r.Severity, r.Labels["host"], source, text))
}

func newLogsTail(s streams, t *target) *cobra.Command {
	var form outputForm
	var backlog int
	c := &cobra.Command{
		Use:     "tail [QUERY]",
		Short:   "Print lines as they come, until interrupted",
		Example: "  triward logs tail 'sshd'",
		Args:    cobra.MaximumNArgs(1),

		ValidArgsFunction: completeQuery(t),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			f := &follower{
				client: cl, kind: "logs.tail", query: strings.Join(args, ""), backlog: min(max(backlog, 0), 200), s: s,
				print: func(rows []json.RawMessage) error { return printRows(s.out, &form, rows, false) },
			}
			return f.run(c.Context())
		},
	}
	form.flag(c)
	c.Flags().IntVarP(&backlog, "lines", "n", 10, "begin with this many lines that are there (at most 200)")
	return c
}

// follower holds a live subscription, on another node when one is lost: its cursor is good on every node.
type follower struct {
	client  *client
	kind    string // of the subscription
	query   string
	backlog int
	print   func(rows []json.RawMessage) error
	s       streams
	cursor  string
}

const liveProtocol = "triward.v1.json"

func (f *follower) run(ctx context.Context) error {
	failed := 0
	for i := 0; ; i++ {
		got, err := f.follow(ctx, f.client.urls[i%len(f.client.urls)])
		if ctx.Err() != nil {
			return nil // interrupting is how a tail ends
		}
		if refused, ok := errors.AsType[*apiError](err); ok {
			return refused
		}
		if got {
			failed = 0
		}
		if failed++; failed > 5*len(f.client.urls) {
			return fmt.Errorf("the live connection is lost: %w", err)
		}
		fmt.Fprintf(f.s.err, "connection lost, trying again: %v\n", err)
		wait := time.NewTimer(time.Duration(min(failed, 6)) * 500 * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

type liveMessage struct {
	Op      string            `json:"op"`
	V       []json.RawMessage `json:"v"`
	Cursor  string            `json:"cursor"`
	Lacks   string            `json:"lacks"` // of a snap: why the first lines may not be all
	Sampled int               `json:"sampled"`
	Dropped int               `json:"dropped"`
	Code    string            `json:"code"`
	Pos     *int              `json:"pos"`
	Message string            `json:"message"`
}

// follow prints what one connection brings. got says whether it brought anything.
func (f *follower) follow(ctx context.Context, base string) (got bool, err error) {
	conn, err := f.dial(ctx, base)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sub := map[string]any{
		"op": "sub", "id": "t", "kind": f.kind, "params": map[string]any{"query": f.query, "backlog": f.backlog},
	}
	if f.cursor != "" {
		sub["cursor"] = f.cursor
	}
	for _, m := range []any{map[string]string{"op": "hello"}, sub} {
		if err := conn.WriteJSON(m); err != nil {
			return false, fmt.Errorf("subscribe: %w", err)
		}
	}
	for {
		var m liveMessage
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil { // a tick comes every 5 s
			return got, err
		}
		if err := conn.ReadJSON(&m); err != nil {
			return got, fmt.Errorf("read live connection: %w", err)
		}
		switch m.Op {
		case "snap", "delta":
			got = true
			switch m.Lacks {
			case "damaged":
				fmt.Fprintln(f.s.err, "warning: the first lines lack some, because parts are damaged on the node that was asked and no other node had them all; what comes is all shown")
			case "time":
				fmt.Fprintln(f.s.err, "note: looking for the first lines took too long, so there may be others; what comes is all shown")
			}
			if err := f.print(m.V); err != nil {
				return got, err
			}
			if m.Sampled > 0 {
				fmt.Fprintf(f.s.err, "... %d lines not shown: they come too fast\n", m.Sampled)
			}
			if m.Cursor != "" {
				f.cursor = m.Cursor
			}
		case "gap":
			if m.Dropped < 0 {
				fmt.Fprintln(f.s.err, "... lines may be missing here; nobody knows how many")
			} else {
				fmt.Fprintf(f.s.err, "... %d lines are missing here\n", m.Dropped)
			}
		case "err":
			if m.Code == "unavailable" { // now, or at this node
				return got, errors.New(m.Message)
			}
			return got, &apiError{Status: http.StatusBadRequest, Detail: m.Message, Pos: m.Pos, query: f.query}
		case "end":
			return got, errors.New("the node ended the subscription")
		}
	}
}

func (f *follower) dial(ctx context.Context, base string) (*websocket.Conn, error) {
	t, ok := f.client.http.Transport.(*http.Transport)
	if !ok {
		return nil, errors.New("no transport to dial with")
	}
	conf := t.TLSClientConfig.Clone()
	conf.NextProtos = []string{"http/1.1"} // a websocket is an upgrade of HTTP/1.1
	d := websocket.Dialer{
		TLSClientConfig: conf, HandshakeTimeout: 10 * time.Second,
		Subprotocols: []string{liveProtocol}, Proxy: http.ProxyFromEnvironment,
	}
	h := http.Header{}
	if f.client.token != "" {
		h.Set("Authorization", "Bearer "+f.client.token)
	}
	conn, resp, err := d.DialContext(ctx, "ws"+strings.TrimPrefix(base, "http")+"/v1/live", h)
	if err != nil {
		if resp != nil {
			defer resp.Body.Close()
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			if resp.StatusCode/100 == 4 {
				return nil, newAPIError(resp, body)
			}
		}
		return nil, fmt.Errorf("open live connection: %w", err)
	}
	conn.SetReadLimit(16 << 20)
	return conn, nil
}
