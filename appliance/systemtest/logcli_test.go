package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// logcliRun is Loki's own command line, asking three nodes for lines that the test wrote.
type logcliRun struct {
	t     *testing.T
	c     *cluster
	bin   string
	token string
	next  int // the node that is asked next
	lines []shelfLine
	begin time.Time // of the lines; all are within ten minutes
}

// shelfLine is a line that was written.
type shelfLine struct {
	t      int64 // nanoseconds
	labels map[string]string
	fields map[string]string // structured metadata
	text   string
}

// shown are the labels that a client of Loki shows of a line.
func (line *shelfLine) shown() map[string]string {
	labels := maps.Clone(line.labels)
	maps.Copy(labels, line.fields)
	if strings.Contains(line.text, `"level":"warn"`) {
		labels["detected_level"] = "warn"
	}
	return labels
}

// The real logcli, as a program, asks three real nodes: what it prints is what was written, line for line, whatever the size of a
// page, the direction and the form; numbers are those of a count; a tail goes on while the leader is killed; errors are told.
// `make test-logcli` builds it and names it in TRIWARD_LOGCLI.
func TestRealLogcli(t *testing.T) {
	bin := os.Getenv("TRIWARD_LOGCLI")
	if bin == "" {
		t.Log("the real logcli is tried by make test-logcli: building it takes minutes")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := start(ctx, binaries(t, ""), t.TempDir(), "--agent=false", "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	l := &logcliRun{t: t, c: c, bin: bin, begin: time.Now().Add(-20 * time.Minute).Truncate(time.Second)}
	l.token, err = l.makeToken(ctx, "viewer")
	l.must(err)
	l.lines = shelfLines(l.begin.UnixNano())
	l.must(l.push(ctx, &c.Nodes[0], l.lines))
	t.Run("names", func(t *testing.T) { l.t = t; l.names(ctx) })
	t.Run("pages", func(t *testing.T) { l.t = t; l.pages(ctx) })
	t.Run("forms", func(t *testing.T) { l.t = t; l.forms(ctx) })
	t.Run("stages", func(t *testing.T) { l.t = t; l.stages(ctx) })
	t.Run("numbers", func(t *testing.T) { l.t = t; l.numbers(ctx) })
	t.Run("errors", func(t *testing.T) { l.t = t; l.errors(ctx) })
	t.Run("tail", func(t *testing.T) { l.t = t; l.tail(ctx) })
}

func (l *logcliRun) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("%v\nnodes said last:\n%s", err, l.c.tail())
	}
}

func (l *logcliRun) makeToken(ctx context.Context, role string) (string, error) {
	var answer struct {
		Token string `json:"token"`
	}
	err := until(ctx, 30*time.Second, func(ctx context.Context) error {
		return l.c.change(ctx, &l.c.Nodes[0], http.MethodPost, "/v1/tokens/api", map[string]any{"name": "logcli-" + role, "role": role}, &answer)
	})
	return answer.Token, err
}

// shelfLines are lines of several streams, of which some have their time in common. No text is there twice, since logcli takes two lines
// of one time and text for one when it pages.
func shelfLines(begin int64) []shelfLine {
	odd := []string{
		"plain status=200", "   indented, and a tab\there status=404", `{"level":"warn","status":503}`, `quotes "double" 'single' \back status=200`,
		"用户登录成功 status=200", "<b>&amp;</b> status=500", "trailing spaces status=200   ", "héllo 🦉 status=201", strings.Repeat("long ", 700) + "status=500",
	}
	var lines []shelfLine
	at := begin
	for k := range 900 {
		if k%3 != 1 { // lines k and k+1 of three have one time
			at += int64(600 * time.Millisecond)
		}
		line := shelfLine{
			t: at, labels: map[string]string{"app": "books", "shelf": []string{"a", "Regal", "架子"}[k%7%3]},
			text: fmt.Sprintf("%s n=%d", odd[k%len(odd)], k),
		}
		switch {
		case k%50 == 5:
			line.text = fmt.Sprintf("trace of n=%d\n  at one\n  at two", k)
			line.t += int64(time.Millisecond) // alone
		case k%10 == 7:
			line.fields = map[string]string{"trace": fmt.Sprintf("t%d", k)}
		}
		lines = append(lines, line)
	}
	slices.SortStableFunc(lines, func(a, b shelfLine) int { return int(a.t - b.t) })
	return lines
}

// push sends lines to a node in the form of Loki's clients.
func (l *logcliRun) push(ctx context.Context, n *devNode, lines []shelfLine) error {
	var streams []map[string]any
	for _, line := range lines {
		value := []any{strconv.FormatInt(line.t, 10), line.text}
		if line.fields != nil {
			value = append(value, line.fields)
		}
		streams = append(streams, map[string]any{"stream": line.labels, "values": []any{value}})
	}
	return l.c.change(ctx, n, http.MethodPost, "/loki/api/v1/push", map[string]any{"streams": streams}, nil)
}

// command is logcli with these arguments, asking a node.
func (l *logcliRun) command(ctx context.Context, n *devNode, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.bin, args...)
	cmd.Env = append(os.Environ(), "LOKI_ADDR="+n.URL, "LOKI_USERNAME=anybody", "LOKI_PASSWORD="+l.token, "LOKI_CA_CERT_PATH="+l.c.CA)
	return cmd
}

// run runs logcli, each time against another node, and returns what it printed. It fails the test when logcli fails.
func (l *logcliRun) run(ctx context.Context, args ...string) (out, said string) {
	l.t.Helper()
	l.next++
	n := &l.c.Nodes[l.next%len(l.c.Nodes)]
	var stdout, stderr bytes.Buffer
	cmd := l.command(ctx, n, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		l.t.Fatalf("logcli %v at %s: %v\n%s", args, n.ID, err, stderr.Bytes())
	}
	return stdout.String(), stderr.String()
}

// span are the flags for the time of all lines.
func (l *logcliRun) span() []string {
	return []string{"--from=" + l.begin.UTC().Format(time.RFC3339Nano), "--to=" + l.begin.Add(10*time.Minute).UTC().Format(time.RFC3339Nano)}
}

// names asks for labels, their values and streams.
func (l *logcliRun) names(ctx context.Context) {
	shelves := map[string]bool{}
	series := map[string]bool{}
	for _, line := range l.lines {
		shelves[line.labels["shelf"]] = true
		series[labelsText(line.labels)] = true
	}
	out, _ := l.run(ctx, append([]string{"labels"}, l.span()...)...)
	names := strings.Fields(out)
	if !slices.IsSorted(names) || !slices.Contains(names, "app") || !slices.Contains(names, "shelf") || slices.Contains(names, "trace") {
		l.t.Errorf("labels: %q", names)
	}
	for name, want := range map[string][]string{"shelf": slices.Sorted(maps.Keys(shelves)), "app": {"books"}, "nowhere": nil} {
		out, _ := l.run(ctx, append([]string{"labels", name}, l.span()...)...)
		if got := strings.Fields(out); !slices.Equal(got, want) {
			l.t.Errorf("labels %s: %q, not %q", name, got, want)
		}
	}
	want := slices.Sorted(maps.Keys(series))
	for _, org := range []string{"", "--org-id=somebody"} { // there are no tenants
		args := append([]string{"series", `{shelf=~".+"}`}, l.span()...)
		if org != "" {
			args = append(args, org)
		}
		out, _ := l.run(ctx, args...)
		if got := splitLines(out); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			l.t.Errorf("%v: %q, not %q", args, got, want)
		}
	}
	out, _ = l.run(ctx, append([]string{"series", `{shelf=~".+"}`, "--analyze-labels"}, l.span()...)...)
	if !regexp.MustCompile(`(?m)^shelf +3 +3 *$`).MatchString(out) || !regexp.MustCompile(`(?m)^app +1 +3 *$`).MatchString(out) {
		l.t.Errorf("series --analyze-labels:\n%s", out)
	}
}

// labelsText is a set of labels as logcli prints it.
func labelsText(of map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s=%q", name, of[name]))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func splitLines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// jsonLine is a line as `logcli -o jsonl` prints it.
type jsonLine struct {
	Labels    map[string]string `json:"labels"`
	Line      string            `json:"line"`
	Timestamp time.Time         `json:"timestamp"`
}

func (j jsonLine) String() string {
	return fmt.Sprintf("%d %s %q", j.Timestamp.UnixNano(), labelsText(j.Labels), j.Line)
}

// pages asks for all lines, in pages of several sizes, and for some of them.
func (l *logcliRun) pages(ctx context.Context) {
	total := len(l.lines)
	for _, forward := range []bool{false, true} {
		for _, p := range []struct{ limit, batch int }{{5000, 1000}, {5000, 5000}, {5000, 7}, {total, 100}, {total - 1, 100}, {301, 10}, {250, 1000}, {1, 1000}, {30, 30}} {
			args := append([]string{
				"query", "-q", "-o", "jsonl", "--include-label=app", "--include-label=shelf", "--include-label=trace", "--include-label=detected_level",
				"--limit=" + strconv.Itoa(p.limit), "--batch=" + strconv.Itoa(p.batch), `{shelf=~".+"}`,
			}, l.span()...)
			if forward {
				args = append(args, "--forward")
			}
			out, _ := l.run(ctx, args...)
			var got []string
			for _, text := range splitLines(out) {
				var j jsonLine
				l.must(json.Unmarshal([]byte(text), &j))
				got = append(got, j.String())
			}
			want := l.expect(forward, func(line *shelfLine) string {
				return jsonLine{line.shown(), line.text, time.Unix(0, line.t)}.String()
			})
			if err := sameInTime(got, want, p.limit); err != nil {
				l.t.Errorf("forward %v, at most %d in pages of %d: %v", forward, p.limit, p.batch, err)
			}
		}
	}
}

// expect returns what logcli prints of all lines in the given direction, those of one time together: they have no order.
func (l *logcliRun) expect(forward bool, print func(line *shelfLine) string) (groups [][]string) {
	for i := range l.lines {
		line := &l.lines[i]
		text := print(line)
		if i > 0 && l.lines[i-1].t == line.t {
			groups[len(groups)-1] = append(groups[len(groups)-1], text)
		} else {
			groups = append(groups, []string{text})
		}
	}
	if !forward {
		slices.Reverse(groups)
	}
	return groups
}

// sameInTime says how got differs from the first limit of what is in the groups, in their order.
func sameInTime(got []string, groups [][]string, limit int) error {
	want := 0
	for _, g := range groups {
		want += len(g)
	}
	if want = min(want, limit); len(got) != want {
		return fmt.Errorf("%d lines, not %d", len(got), want)
	}
	for _, group := range groups {
		n := min(len(got), len(group))
		rest := slices.Clone(group)
		for _, text := range got[:n] {
			i := slices.Index(rest, text)
			if i < 0 {
				return fmt.Errorf("%d lines before the end comes %q, not one of %q", len(got), text, rest)
			}
			rest = slices.Delete(rest, i, i+1)
		}
		if got = got[n:]; len(got) == 0 {
			return nil
		}
	}
	return nil
}

// forms asks for all lines in the forms raw and default.
func (l *logcliRun) forms(ctx context.Context) {
	width, common := 0, map[string]string{"app": "books"}
	shown := func(line *shelfLine) string {
		labels := line.shown()
		maps.DeleteFunc(labels, func(name, _ string) bool { _, all := common[name]; return all })
		return labelsText(labels)
	}
	for i := range l.lines {
		width = max(width, len(shown(&l.lines[i])))
	}
	at := func(line *shelfLine) string { return time.Unix(0, line.t).UTC().Format(time.RFC3339) }
	for _, f := range []struct {
		flags []string
		print func(line *shelfLine) string
	}{
		{[]string{"-o", "raw"}, func(line *shelfLine) string { return line.text }},
		{[]string{"-z", "UTC"}, func(line *shelfLine) string {
			return at(line) + " " + shown(line) + strings.Repeat(" ", width-len(shown(line))) + " " + strings.TrimSpace(line.text)
		}},
		{[]string{"-z", "UTC", "--no-labels"}, func(line *shelfLine) string { return at(line) + " " + strings.TrimSpace(line.text) }},
	} {
		for _, forward := range []bool{false, true} {
			args := append([]string{"query", "--limit=5000", "--batch=5000", `{shelf=~".+"}`}, append(l.span(), f.flags...)...)
			if forward {
				args = append(args, "--forward")
			}
			out, said := l.run(ctx, args...)
			var want [][]string
			for _, group := range l.expect(forward, f.print) {
				want = append(want, strings.Split(strings.Join(group, "\n"), "\n"))
			}
			if err := sameInTime(splitLines(out), want, 1<<30); err != nil {
				l.t.Errorf("%v, forward %v: %v", f.flags, forward, err)
			}
			if !strings.Contains(said, "Common labels: "+labelsText(common)) {
				l.t.Errorf("%v says %q", f.flags, said)
			}
		}
	}
}

// stages asks for lines that filters and parsers pick.
func (l *logcliRun) stages(ctx context.Context) {
	status := regexp.MustCompile(`status=(\d+)`)
	for query, keep := range map[string]func(line *shelfLine) bool{
		`{shelf="a"}`:  func(line *shelfLine) bool { return line.labels["shelf"] == "a" },
		`{shelf="架子"}`: func(line *shelfLine) bool { return line.labels["shelf"] == "架子" },
		`{app="books", shelf!~"a|Regal"} |= "n=4"`: func(line *shelfLine) bool {
			return line.labels["shelf"] == "架子" && strings.Contains(line.text, "n=4")
		},
		`{app="books"} |= "登录"`:                     func(line *shelfLine) bool { return strings.Contains(line.text, "登录") },
		`{app="books"} != "status"`:                 func(line *shelfLine) bool { return !strings.Contains(line.text, "status") },
		"{app=\"books\"} |~ `(?i)PLAIN.*n=\\d\\d$`": func(line *shelfLine) bool { return regexp.MustCompile(`(?i)PLAIN.*n=\d\d$`).MatchString(line.text) },
		`{app="books"} | logfmt | status >= 500`: func(line *shelfLine) bool {
			m := status.FindStringSubmatch(line.text)
			return m != nil && m[1] >= "500"
		},
		`{app="books"} | trace="t17"`: func(line *shelfLine) bool { return line.fields["trace"] == "t17" },
	} {
		out, _ := l.run(ctx, append([]string{"query", "-q", "-o", "jsonl", "--limit=5000", query}, l.span()...)...)
		var got, want []string
		for _, text := range splitLines(out) {
			var j jsonLine
			l.must(json.Unmarshal([]byte(text), &j))
			got = append(got, fmt.Sprint(j.Timestamp.UnixNano(), " ", j.Line))
		}
		for i := range l.lines {
			if keep(&l.lines[i]) {
				want = append(want, fmt.Sprint(l.lines[i].t, " ", l.lines[i].text))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if len(want) == 0 || !slices.Equal(got, want) {
			l.t.Errorf("%s: %d lines, not the %d that it means", query, len(got), len(want))
		}
	}
}

// numbers asks for counts at one time and over time, and for what a query read.
func (l *logcliRun) numbers(ctx context.Context) {
	want := map[string]float64{}
	for _, line := range l.lines {
		want[line.labels["shelf"]]++
	}
	type sample struct {
		Metric map[string]string `json:"metric"`
		Value  [2]any            `json:"value"`
		Values [][2]any          `json:"values"`
	}
	number := func(v any) float64 {
		n, err := strconv.ParseFloat(fmt.Sprint(v), 64)
		l.must(err)
		return n
	}
	read := func(args ...string) (all []sample) {
		out, _ := l.run(ctx, append(args, "-q")...)
		l.must(json.Unmarshal([]byte(out), &all))
		return all
	}
	got := map[string]float64{}
	for _, s := range read("instant-query", `sum by (shelf) (count_over_time({app="books"}[1h]))`) {
		got[s.Metric["shelf"]] = number(s.Value[1])
	}
	if !maps.Equal(got, want) {
		l.t.Errorf("instant-query counts %v, not %v", got, want)
	}
	got = map[string]float64{}
	steps := 0
	for _, s := range read(append([]string{"query", "--step=1m", `sum by (shelf) (count_over_time({app="books"}[1m]))`}, "--from="+l.begin.UTC().Format(time.RFC3339),
		"--to="+l.begin.Add(15*time.Minute).UTC().Format(time.RFC3339))...) {
		for _, v := range s.Values {
			got[s.Metric["shelf"]] += number(v[1])
			steps++
		}
	}
	if !maps.Equal(got, want) || steps < 15 {
		l.t.Errorf("query --step=1m counts %v in %d steps, not %v", got, steps, want)
	}
	_, said := l.run(ctx, append([]string{"query", "--stats", "--limit=5000", "--batch=5000", `{app="books"} |= "n="`}, l.span()...)...)
	m := regexp.MustCompile(`Summary\.TotalLinesProcessed\s+(\d+)`).FindStringSubmatch(said)
	if m == nil || number(m[1]) < float64(len(l.lines)) {
		l.t.Errorf("query --stats says %v lines were read, there are %d\n%s", m, len(l.lines), said)
	}
}

// errors asks for what is not answered: logcli fails and says why.
func (l *logcliRun) errors(ctx context.Context) {
	ingest, err := l.makeToken(ctx, "ingest")
	l.must(err)
	for _, e := range []struct {
		args []string
		says string
	}{
		{[]string{"query", "--password=wrong", `{app="books"}`}, "no valid session or token"},
		{[]string{"query", "--tail", "--password=wrong", `{app="books"}`}, "no valid session or token"},
		{[]string{"labels", "--username=", "--password="}, "no valid session or token"},
		{[]string{"query", "--password=" + ingest, `{app="books"}`}, `"status":403`},
		{[]string{"query", `{app="books"`}, "parse error at line 1, col 13"},
		{[]string{"series", `{app=books}`}, "parse error at line 1, col 6"},
		{[]string{"query", `{}`}, "at least one"},
		{[]string{"query", "--limit=6000", "--batch=6000", `{app="books"}`}, "5000"},
		{[]string{"instant-query", `{app="books"}`}, "query_range"},
	} {
		out, err := l.command(ctx, &l.c.Nodes[0], e.args...).CombinedOutput()
		if exit, failed := errors.AsType[*exec.ExitError](err); !failed || exit.ExitCode() != 1 || !strings.Contains(string(out), e.says) {
			l.t.Errorf("logcli %q: %v, not with %q\n%s", e.args, err, e.says, out)
		}
	}
}

// tail follows lines at a node that stays, while others come, the leader is killed and started again: each once, in order.
func (l *logcliRun) tail(ctx context.Context) {
	leader, err := l.c.leader(ctx)
	l.must(err)
	stays := slices.IndexFunc(l.c.Nodes, func(n devNode) bool { return n.ID != leader.ID })
	var written []shelfLine
	write := func(n int) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range n {
			<-tick.C
			line := shelfLine{t: time.Now().UnixNano(), labels: map[string]string{"shelf": "live"}, text: fmt.Sprintf("line %d", len(written))}
			l.must(until(ctx, 30*time.Second, func(ctx context.Context) error { // repeats are dropped by the cluster
				l.next++
				return l.push(ctx, &l.c.Nodes[l.next%len(l.c.Nodes)], []shelfLine{line})
			}))
			written = append(written, line)
		}
	}
	write(50)
	path := filepath.Join(l.t.TempDir(), "tail")
	out, err := os.Create(path)
	l.must(err)
	defer out.Close()
	cmd := l.command(ctx, &l.c.Nodes[stays], "query", "--tail", "-o", "jsonl", "--limit=1000", `{shelf="live"} |= "line"`)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	l.must(cmd.Start())
	printed := func() (got []string) {
		b, err := os.ReadFile(path)
		l.must(err)
		for _, text := range splitLines(string(b[:bytes.LastIndexByte(b, '\n')+1])) {
			var j jsonLine
			l.must(json.Unmarshal([]byte(text), &j))
			got = append(got, j.String())
		}
		return got
	}
	write(100)
	l.must(until(ctx, 30*time.Second, func(context.Context) error {
		if n := len(printed()); n < 100 {
			return fmt.Errorf("the tail has printed %d lines of %d", n, len(written))
		}
		return nil
	}))
	l.must(l.c.kill(leader))
	write(150)
	l.must(l.c.restart(leader))
	write(50)
	err = until(ctx, 30*time.Second, func(context.Context) error {
		if n := len(printed()); n < len(written) {
			return fmt.Errorf("the tail has printed %d lines of %d", n, len(written))
		}
		return nil
	})
	l.must(cmd.Process.Signal(os.Interrupt))
	if ended := cmd.Wait(); err != nil || ended != nil {
		l.t.Fatalf("%v; the tail ended with %v and said %s", err, ended, said.Bytes())
	}
	var want []string
	for _, line := range written {
		want = append(want, jsonLine{line.labels, line.text, time.Unix(0, line.t)}.String())
	}
	if got := printed(); !slices.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				l.t.Fatalf("the tail printed %d lines of %d; line %d is %s, not %s", len(got), len(want), i, got[i], want[i])
			}
		}
		l.t.Fatalf("the tail printed %d lines, %d were written", len(got), len(want))
	}
}
