package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
)

// agentRows are those of a host that is cut off from all nodes.
func agentRows() []faultRow {
	return []faultRow{
		{
			name: "agent-offline", needs: []need{needNet}, weight: 75 * time.Second, longer: lengthOf("TRIWARD_OFFLINE"),
			fault: "a host's cable is cut for 30 s (TRIWARD_OFFLINE: another time), its agent is killed once meanwhile",
			run:   func(ctx context.Context, tr *trial) error { return tr.agentOffline(ctx) },
		},
	}
}

// benchAgent is a real agent on a machine of its own.
type benchAgent struct {
	tr     *trial
	at     *place
	config string
	file   string
	cmd    *exec.Cmd
	log    *os.File
}

// newAgent enrolls an agent that follows one file, and starts it.
func (tr *trial) newAgent(ctx context.Context) (*benchAgent, error) {
	at, err := tr.net.add(ctx, "host")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(tr.dir, "host")
	a := &benchAgent{tr: tr, at: at, config: filepath.Join(dir, "agent.yaml"), file: filepath.Join(dir, "followed.log")}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(map[string]any{
		"data_dir": filepath.Join(dir, "data"), "status": map[string]any{"listen": "127.0.0.1:9100"},
		"metrics": map[string]any{"period": "1s"}, "journal": map[string]any{"enabled": "false"},
		"logs": map[string]any{"files": []map[string]any{{"include": []string{a.file}}}},
	})
	if err != nil {
		return nil, err
	}
	token, err := tr.c.agentToken(ctx)
	if err != nil {
		return nil, err
	}
	tokenFile := filepath.Join(dir, "token")
	if err := errors.Join(os.WriteFile(a.config, text, 0o600), os.WriteFile(a.file, nil, 0o600), os.WriteFile(tokenFile, []byte(token), 0o600)); err != nil {
		return nil, err
	}
	if a.log, err = os.Create(filepath.Join(dir, "agent.log")); err != nil {
		return nil, err
	}
	enroll := exec.CommandContext(ctx, filepath.Join(tr.bin, "triward-agent"), "enroll", "--config", a.config, "--url", tr.c.Nodes[0].AgentURL, "--token-file", tokenFile)
	enroll.Stdout, enroll.Stderr = a.log, a.log
	if err := at.within(enroll.Start); err != nil {
		return nil, err
	}
	if err := enroll.Wait(); err != nil {
		return nil, fmt.Errorf("enroll the agent: %w", err)
	}
	tr.atEnd(a.end)
	return a, a.start()
}

func (a *benchAgent) start() error {
	a.cmd = exec.Command(filepath.Join(a.tr.bin, "triward-agent"), "run", "--config", a.config)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return a.at.within(a.cmd.Start)
}

func (a *benchAgent) kill() {
	if a.cmd != nil {
		_ = a.cmd.Process.Kill()
		_ = a.cmd.Wait()
		a.cmd = nil
	}
}

func (a *benchAgent) end() {
	a.kill()
	_ = a.log.Close()
}

// status asks the agent on its own machine.
func (a *benchAgent) status(ctx context.Context) (agentStatus, error) {
	h := hostAgent{status: "127.0.0.1:9100", client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: a.at.dial,
	}}}
	return h.ask(ctx)
}

// agentOffline cuts a host off while lines are written, and holds that they come in order, each once.
func (tr *trial) agentOffline(ctx context.Context) error {
	length := 30 * time.Second
	if v := os.Getenv("TRIWARD_OFFLINE"); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			return fmt.Errorf("TRIWARD_OFFLINE: %w", err)
		}
	}
	if err := tr.found(ctx, plan{apart: true}); err != nil {
		return err
	}
	a, err := tr.newAgent(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	var count atomic.Int64
	writing, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- appendLines(writing, a.file, &count) }()
	n := &tr.c.Nodes[0]
	if err := until(ctx, time.Minute, func(ctx context.Context) error { return tr.c.findLines(ctx, n, begin, 100, false) }); err != nil {
		return fmt.Errorf("before the cut: %w", err)
	}
	if err := tr.net.isolate(ctx, []*place{a.at}, tr.places); err != nil {
		return err
	}
	tr.faulted(1)
	first := count.Load()
	if err := pause(ctx, length/2); err != nil {
		return err
	}
	a.kill()
	tr.faulted(1)
	if err := errors.Join(a.start(), pause(ctx, length-length/2)); err != nil {
		return err
	}
	st, err := a.status(ctx)
	if err != nil {
		return err
	}
	if st.Spool.Batches < uint64(length.Seconds()/2) {
		return fmt.Errorf("the spool holds %d batches after %v", st.Spool.Batches, length)
	}
	tr.note("cut for %v: %d lines written meanwhile, %d batches of %.1f MiB in the spool", length, count.Load()-first, st.Spool.Batches, float64(st.Spool.Bytes)/(1<<20))
	stop()
	tr.other, tr.kind = int(count.Load()), "lines"
	if err := <-ended; err != nil {
		return err
	}
	healed := time.Now()
	if err := tr.heal(ctx); err != nil {
		return err
	}
	if err := tr.caughtUp(ctx, n, begin, count.Load()); err != nil {
		return err
	}
	tr.recovered(time.Since(healed))
	if err := tr.sameState(ctx); err != nil {
		return err
	}
	for i := range tr.c.Nodes {
		if err := until(ctx, time.Minute, func(ctx context.Context) error { return tr.c.findLines(ctx, &tr.c.Nodes[i], begin, count.Load(), true) }); err != nil {
			tr.violations.add(&tr.violations.lost, "%v", err)
		}
	}
	st, err = a.status(ctx)
	for lane, l := range st.Spool.Lanes {
		if l.Lost > 0 {
			tr.violations.add(&tr.violations.lost, "lane %s of the spool lost %d items", lane, l.Lost)
		}
	}
	return err
}

// caughtUp returns when all lines are there, and holds that at every look before there is no gap in them.
func (tr *trial) caughtUp(ctx context.Context, n *devNode, begin time.Time, count int64) error {
	looks := 0
	err := until(ctx, 5*time.Minute, func(ctx context.Context) error {
		most, err := tr.newestLine(ctx, n, begin)
		if err != nil {
			return err
		}
		if err := tr.c.findLines(ctx, n, begin, most, false); err != nil { // what came later than the newest one does no harm
			tr.violations.add(&tr.violations.differing, "not in order: up to line %d, %v", most, err)
			return nil
		}
		looks++
		if most < count {
			return fmt.Errorf("line %d of %d is there", most, count)
		}
		return nil
	})
	tr.note("no gap at %d looks while it caught up", looks)
	return err
}

// newestLine is the number of the newest line that a node has.
func (tr *trial) newestLine(ctx context.Context, n *devNode, begin time.Time) (int64, error) {
	var page struct{ Rows []struct{ Text string } }
	q := url.Values{
		"query": {"outageline"}, "limit": {"5000"},
		"start": {strconv.FormatInt(begin.Add(-time.Hour).UnixMilli(), 10)}, "end": {strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10)},
	}
	if err := tr.c.get(ctx, n, "/v1/logs/query", q, &page); err != nil {
		return 0, err
	}
	var most int64
	for _, r := range page.Rows {
		var k int64
		if _, err := fmt.Sscanf(r.Text, "outageline n=%d", &k); err == nil {
			most = max(most, k)
		}
	}
	return most, nil
}
