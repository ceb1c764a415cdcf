package systemtest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/backup/target/s3test"
)

// archiveShapes are questions of every shape. The field is asked for by facets, the rest by query, hits, context and labels.
var archiveShapes = []string{
	"refused", "req000a7", "refused AND upstream", `"connection refused"`, "conn*", "/id=[0-9a-f]{4} /", "code:500", "磁盘", "NOT refused severity:error", "",
}

// archived is a cluster with lines of a day of which everything is known.
type archived struct {
	*cluster
	t   *testing.T
	day int64
	env []string
}

func (a *archived) run(args ...string) (string, error) {
	cmd := exec.CommandContext(a.t.Context(), filepath.Join(a.bin, "triward"), args...)
	cmd.Env = append(os.Environ(), a.env...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("triward %v: %w: %s", args, err, said.String())
	}
	return strings.TrimSpace(string(out)), err
}

func (a *archived) must(args ...string) string {
	a.t.Helper()
	out, err := a.run(args...)
	if err != nil {
		a.t.Fatalf("%v\n%s", err, a.tail())
	}
	return out
}

// send sends a day of lines by an agent, some of them no text.
func (a *archived) send(s *sender) error {
	seq := uint64(0)
	for batch := range 40 {
		seq++
		var b wire.LogBatch
		for i, file := range []string{"/var/log/app.log", "../../etc/passwd", "磁盘 \"a\"/b"} {
			st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "file", Value: file}, {Name: "source", Value: "file"}}}
			for k := range 50 {
				n := batch*150 + i*50 + k
				l := wire.LogLine{T: a.day*86400e9 + int64(n)*13e9%86400e9, Severity: wire.Severity(n % 7)}
				l.Text = fmt.Appendf(nil, "%s upstream id=%04x req%05x", []string{"connection refused by", "磁盘空间不足", "user logged in at"}[n%3], n, n)
				l.Fields = []wire.Label{{Name: "code", Value: strconv.Itoa(n % 600)}}
				if n%50 == 0 {
					l.Text = append(l.Text, 0xff, 0x00, '\n')
				}
				st.Lines = append(st.Lines, l)
			}
			slices.SortStableFunc(st.Lines, func(a, b wire.LogLine) int { return int(min(max(a.T-b.T, -1), 1)) })
			b.Streams = append(b.Streams, st)
		}
		body := wire.AppendRequest(nil, s.epoch, []wire.Batch{s.batch(wire.LaneLogs, seq, wire.AppendLogs(nil, &b))})
		for {
			var answer struct {
				Results []struct{ Status, Detail string }
			}
			err := s.call(a.t.Context(), "/v1/agent/batches", wire.ContentType, body, &answer)
			if err == nil && (len(answer.Results) != 1 || answer.Results[0].Status != "ok") {
				return fmt.Errorf("batch %d: %+v", seq, answer)
			}
			if err == nil {
				break
			}
			if err := s.again(a.t.Context(), err); err != nil {
				return err
			}
		}
	}
	return nil
}

// answers asks everything of the store, or of a room, of one node.
func (a *archived) answers(n *devNode, room string) map[string]string {
	a.t.Helper()
	out := map[string]string{}
	ask := func(name, path string, q url.Values) map[string]any {
		a.t.Helper()
		q.Set("start", strconv.FormatInt(a.day*86400e9, 10))
		q.Set("end", strconv.FormatInt((a.day+1)*86400e9, 10))
		if room != "" {
			q.Set("archive", room)
		}
		var v map[string]any
		if err := a.get(a.t.Context(), n, path, q, &v); err != nil {
			a.t.Fatalf("%s: %v", name, err)
		}
		delete(v, "stats") // what it cost may differ
		body, err := json.Marshal(v)
		if err != nil {
			a.t.Fatal(err)
		}
		out[name] = fmt.Sprintf("%x %d", sha256.Sum256(body), len(body))
		return v
	}
	var t, pos string
	for _, q := range archiveShapes {
		v := ask("query "+q, "/v1/logs/query", url.Values{"query": {q}, "limit": {"5000"}})
		if rows, ok := v["rows"].([]any); ok && len(rows) > 100 {
			row, _ := rows[100].(map[string]any)
			t, _ = row["t"].(string)
			pos, _ = row["pos"].(string)
		} else if room == "" && q != "req000a7" && !ok {
			a.t.Fatalf("query %q: %v", q, v)
		}
		ask("hits "+q, "/v1/logs/hits", url.Values{"query": {q}, "step": {"1h"}})
		ask("facets "+q, "/v1/logs/facets", url.Values{"query": {q}, "field": {"code"}, "limit": {"1000"}})
	}
	q := url.Values{"pos": {pos}, "t": {t}, "before": {"7"}, "after": {"9"}}
	if room != "" {
		q.Set("archive", room)
	}
	var v map[string]any
	if err := a.get(a.t.Context(), n, "/v1/logs/context", q, &v); err != nil {
		a.t.Fatal(err)
	}
	out["context"] = fmt.Sprint(v["rows"])
	return out
}

func (a *archived) same(what string, got, want map[string]string) {
	a.t.Helper()
	for name, w := range want {
		if got[name] != w {
			a.t.Errorf("%s: %s differs", what, name)
		}
	}
}

// TestArchivedDayComesBack: a day is archived to a folder and to S3, retention removes it, and it is brought back from each:
// every question gives what it gave before, also after the node was killed.
func TestArchivedDayComesBack(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t)
	boot, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	c, err := start(boot, binaries(t, ""), dir, "--agent=false", "--plain-http", "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	n := &c.Nodes[0]
	a := &archived{cluster: c, t: t, day: time.Now().Unix()/86400 - 10, env: []string{
		"TRIWARD_ADDR=" + n.URL, "TRIWARD_TOKEN=" + c.Token, "XDG_STATE_HOME=" + dir,
		"AWS_ACCESS_KEY_ID=" + service.AccessKey, "AWS_SECRET_ACCESS_KEY=" + service.SecretKey,
	}}
	date := time.Unix(a.day*86400, 0).UTC().Format(time.DateOnly)
	token, err := c.agentToken(boot)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSender("host1", []string{n.AgentURL}, c.tlsConf, nil)
	if err == nil {
		err = s.register(boot, token, 1)
	}
	if err == nil {
		err = a.send(s)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := a.answers(n, "")
	agent := s.agent
	if out := a.must("logs", "ls"); !strings.Contains(out, "/logs/"+agent+" ") {
		t.Fatalf("the tree lacks agent %s: %s", agent, out)
	}
	file := "/logs/" + agent + "/" + date + "/file/%2Fvar%2Flog%2Fapp.log"
	bytesWere := a.must("logs", "cat", file)

	wrong := *a
	wrong.env = append(slices.Clone(a.env), "AWS_SECRET_ACCESS_KEY=wrong")
	if _, err := wrong.run("logs", "archive", "set", "--to", service.URL("site"), "--s3-endpoint", service.Endpoint, "--s3-ca", service.CAFile); err == nil ||
		!strings.Contains(err.Error(), "access key") {
		t.Fatalf("wrong credentials: %v", err)
	}
	a.must("logs", "archive", "set", "--to", "folder", "--by", n.ID, "--manual")
	a.must("logs", "archive", "run", date)
	a.must("logs", "archive", "set", "--to", service.URL("site"), "--s3-endpoint", service.Endpoint, "--s3-ca", service.CAFile, "--manual")
	a.must("logs", "archive", "run", date)
	if out := a.must("logs", "archive", "show"); !strings.Contains(out, "archived") || strings.Contains(out, service.SecretKey) {
		t.Fatal(out)
	}
	a.must("retention", "set", "--logs-age", "5d", "--yes")
	if err := until(t.Context(), time.Minute, func(ctx context.Context) error {
		out, err := a.run("logs", "query", "--start", date+"T00:00:00Z", "--end", date+"T23:59:59Z", "--limit", "1", "refused")
		if err == nil && out != "" {
			err = errors.New("the day is still there")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{"s3", "folder"} {
		if place == "folder" {
			a.must("logs", "archive", "set", "--to", "folder", "--by", n.ID, "--manual")
		}
		if got := a.must("logs", "cat", "--archive", file); got != bytesWere {
			t.Errorf("%s: cat gives %d bytes of %d", place, len(got), len(bytesWere))
		}
		room := a.must("logs", "import", agent+"/"+date)
		a.same(place, a.answers(n, room), want)
		if _, err := a.run("logs", "import", agent+"/"+date); err == nil || !strings.Contains(err.Error(), "here already") {
			t.Errorf("imported twice: %v", err)
		}
		if out := a.must("logs", "query", "--archive", room, "--limit", "5000", "refused"); strings.Count(out, "\n")+1 != 2000 {
			t.Errorf("%d lines of a room", strings.Count(out, "\n")+1)
		}
		if err := errors.Join(c.kill(n), c.restart(n), c.ready(t.Context(), n)); err != nil {
			t.Fatalf("%v\n%s", err, c.tail())
		}
		a.same(place+" after kill -9", a.answers(n, room), want)
		a.must("logs", "import", "remove", room)
	}
}
