// Command record asks a Loki of version 1.6.1 the questions of package lokigoldens and writes down what it answers.
//
//	record -loki PROGRAM -dir appliance/internal/lokigoldens/testdata
//
// It starts the program in a temporary folder, pushes each corpus as a tenant of its own and asks everything twice: while Loki has
// the lines in memory, and again after a restart from its files, where all lines are in the end. The answers from the files are
// kept; where those from memory were others they stand beside them.
package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/triward/triward/appliance/internal/lokigoldens"
)

func main() {
	program := flag.String("loki", "", "the program, built from "+lokigoldens.LokiModule+" "+lokigoldens.LokiVersion)
	dir := flag.String("dir", "", "the folder of the questions, which takes the answers")
	flag.Parse()
	if err := run(*program, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(program, dir string) error {
	if err := check(program); err != nil {
		return err
	}
	g, err := lokigoldens.Load(dir)
	if err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "loki")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	memory, err := session(program, home, g, true)
	if err != nil {
		return err
	}
	answers, err := session(program, home, g, false)
	if err != nil {
		return err
	}
	for i := range answers {
		if answers[i].Ask.Path == lokigoldens.Tail {
			answers[i] = memory[i]
		} else if was := memory[i]; was.Refused != answers[i].Refused {
			return fmt.Errorf("%s: refused once, %q, and once not, or otherwise: %q", was.Ask.Name, was.Refused, answers[i].Refused)
		} else if !lokigoldens.Alike(was.Data, answers[i].Data) {
			answers[i].Memory = was.Data
		}
	}
	file, err := (&lokigoldens.Recorded{Loki: lokigoldens.LokiVersion, Answers: answers}).Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "answers.json"), file, 0o644)
}

// check fails unless the program was made of the one version that may be used.
func check(program string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	for _, m := range append(slices.Clone(info.Deps), &info.Main) {
		if m.Path == lokigoldens.LokiModule && m.Version == lokigoldens.LokiVersion {
			return nil
		}
	}
	return fmt.Errorf("%s is not built from %s %s", program, lokigoldens.LokiModule, lokigoldens.LokiVersion)
}

// config keeps everything below one folder and takes old lines.
const config = `
auth_enabled: true
server: {http_listen_address: 127.0.0.1, http_listen_port: %d, grpc_listen_address: 127.0.0.1, grpc_listen_port: %d, log_level: error}
ingester:
  lifecycler: {address: 127.0.0.1, ring: {kvstore: {store: inmemory}, replication_factor: 1}, final_sleep: 0s, min_ready_duration: 0s}
  chunk_idle_period: 1h
  max_transfer_retries: 0
schema_config:
  configs: [{from: 2020-01-01, store: boltdb, object_store: filesystem, schema: v11, index: {prefix: index_, period: 168h}}]
storage_config: {boltdb: {directory: %q}, filesystem: {directory: %q}}
limits_config: {enforce_metric_name: false, reject_old_samples: false}
`

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// session starts Loki, pushes when the lines are not there yet, asks everything, and ends Loki, which writes to its files then.
func session(program, home string, g *lokigoldens.Goldens, push bool) (answers []lokigoldens.Answer, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	grpc, err := freePort()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(home, "loki.yaml")
	text := fmt.Sprintf(config, port, grpc, filepath.Join(home, "index"), filepath.Join(home, "chunks"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "-config.file="+file)
	cmd.Dir, cmd.Stdout, cmd.Stderr = home, os.Stderr, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // it says that it was told to end
	}()
	c := &client{ctx: ctx, base: fmt.Sprintf("http://127.0.0.1:%d", port)}
	if err := c.ready(); err != nil {
		return nil, err
	}
	for corpus, pushes := range g.Corpora {
		for i := range pushes {
			if !push {
				break
			}
			if err := c.push(corpus, &pushes[i]); err != nil {
				return nil, err
			}
		}
	}
	for i := range g.Questions {
		q := &g.Questions[i]
		a := &lokigoldens.Answer{Ask: *q}
		if q.Path != lokigoldens.Tail {
			a, err = c.ask(q)
		} else if push { // the lines of a tail come once
			a, err = c.follow(q)
		}
		if err != nil {
			return nil, err
		}
		answers = append(answers, *a)
	}
	return answers, nil
}

type client struct {
	ctx  context.Context
	base string
}

func (c *client) do(method, path, tenant, contentType string, body []byte) (int, []byte, error) {
	r, err := http.NewRequestWithContext(c.ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("X-Scope-OrgID", tenant)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	return resp.StatusCode, said, err
}

// ready waits until Loki takes requests.
func (c *client) ready() error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if code, _, err := c.do(http.MethodGet, "/ready", "x", "", nil); err == nil && code == http.StatusOK {
			return nil
		}
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return fmt.Errorf("Loki is not ready: %w", c.ctx.Err())
		}
	}
}

func (c *client) push(tenant string, p *lokigoldens.Push) error {
	contentType, body, err := p.Request()
	if err != nil {
		return err
	}
	code, said, err := c.do(http.MethodPost, lokigoldens.Prefix+"push", tenant, contentType, body)
	if err == nil && code != http.StatusNoContent {
		err = fmt.Errorf("push to %s: %d %s", tenant, code, said)
	}
	return err
}

func (c *client) ask(q *lokigoldens.Question) (*lokigoldens.Answer, error) {
	path, err := q.URL()
	if err != nil {
		return nil, err
	}
	code, said, err := c.do(http.MethodGet, path, q.Corpus, "", nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", q.Name, err)
	}
	return q.Read(code, said)
}

// follow asks for a tail. How many lines it begins with is what the same query answers.
func (c *client) follow(q *lokigoldens.Question) (*lokigoldens.Answer, error) {
	a, err := c.ask(&lokigoldens.Question{Name: q.Name, Corpus: q.Corpus, Path: "query_range", Query: q.Query, Start: q.Start, End: "9000", Limit: q.Limit})
	if err != nil {
		return nil, err
	}
	there := 0
	if data, ok := a.Data.(map[string]any); ok {
		for _, s := range data["result"].([]any) {
			values, _ := s.(map[string]any)["values"].([]any)
			there += len(values)
		}
	}
	header := http.Header{"X-Scope-OrgID": {q.Corpus}}
	return q.Follow(c.ctx, "ws"+strings.TrimPrefix(c.base, "http"), header, there, func(p *lokigoldens.Push) error { return c.push(q.Corpus, p) })
}
