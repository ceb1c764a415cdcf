package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance/internal/freeaddr"
)

// fleetHost is a real agent with a home of its own, as on a host.
type fleetHost struct {
	bin, config, status string
	env                 []string
	cmd                 *exec.Cmd
	log                 *os.File
}

func newFleetHost(t *testing.T, bin, dir string) *fleetHost {
	t.Helper()
	at, err := freeaddr.Addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	h := &fleetHost{bin: filepath.Join(bin, "triward-agent"), config: filepath.Join(dir, "agent.yaml"), status: at[0]}
	body, err := yaml.Marshal(map[string]any{
		"data_dir": filepath.Join(dir, "data"), "status": map[string]any{"listen": h.status},
		"remote": map[string]any{"files": []string{filepath.Join(dir, "app")}},
	})
	if err == nil {
		err = errors.Join(os.WriteFile(h.config, body, 0o600), os.Mkdir(filepath.Join(dir, "app"), 0o700))
	}
	if err == nil {
		h.log, err = os.Create(filepath.Join(dir, "agent.log"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.end(syscall.SIGTERM)
		h.log.Close()
		if b, _ := os.ReadFile(h.log.Name()); t.Failed() {
			t.Logf("the agent said last:\n%s", b[max(0, len(b)-4000):])
		}
	})
	return h
}

func (h *fleetHost) start(t *testing.T) {
	t.Helper()
	h.cmd = exec.Command(h.bin, "run", "--config", h.config)
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (h *fleetHost) end(sig syscall.Signal) {
	if h.cmd != nil {
		_ = h.cmd.Process.Signal(sig)
		_ = h.cmd.Wait()
		h.cmd = nil
	}
}

// says is what the agent tells of itself on its own host.
func (h *fleetHost) says(ctx context.Context) (s struct {
	Connected   bool   `json:"connected"`
	LastFailure string `json:"last_failure"`
	Config      struct {
		State   string `json:"state"`
		Version uint64 `json:"version"`
	} `json:"config"`
}, err error,
) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.status+"/status", nil)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// cli runs triward as an administrator does, and returns what it says.
func (c *cluster) cli(ctx context.Context, n *devNode, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "triward"), args...)
	cmd.Env = append(os.Environ(), "TRIWARD_ADDR="+n.URL, "TRIWARD_TOKEN="+c.Token, "TRIWARD_CA="+c.CA)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// fleetAgent is an agent as the cluster knows it.
type fleetAgent struct {
	ID        string `json:"agent_id"`
	State     string `json:"state"`
	Group     string `json:"group"`
	Revoked   bool   `json:"revoked"`
	Heartbeat int64  `json:"heartbeat_at"`
	Lag       *int64 `json:"lag_ms"`
	Clock     *int64 `json:"clock_offset_ms"`
	Config    struct {
		Drift   string `json:"drift"`
		Version uint64 `json:"version"`
		Wanted  uint64 `json:"wanted_version"`
		Error   string `json:"error"`
	} `json:"config"`
}

func (c *cluster) theAgent(ctx context.Context, n *devNode) (fleetAgent, error) {
	var answer struct {
		Agents []fleetAgent `json:"agents"`
	}
	if err := c.get(ctx, n, "/v1/agents", nil, &answer); err != nil {
		return fleetAgent{}, err
	}
	if len(answer.Agents) != 1 {
		return fleetAgent{}, fmt.Errorf("%d agents", len(answer.Agents))
	}
	return answer.Agents[0], nil
}

// A host is enrolled into a group by one command, sends, takes over what the cluster sets for the group through the kill
// of a leader and of itself, refuses what it may not do, and is cut off when it is revoked. No line is lost or doubled.
func TestAgentFromEnrolmentToRevocation(t *testing.T) {
	t.Parallel()
	bin := binaries(t, "")
	ctx := t.Context()
	dir := t.TempDir()
	c, err := start(ctx, bin, dir, "--agent=false", "--http-port=0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	asked := &c.Nodes[0] // who is asked; the leader is killed later
	cli := func(args ...string) string {
		t.Helper()
		out, err := c.cli(ctx, asked, args...)
		if err != nil {
			t.Fatalf("triward %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	home := filepath.Join(dir, "host")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	h := newFleetHost(t, bin, home)
	token := strings.TrimSpace(strings.SplitN(cli("agents", "token", "create", "--group", "web"), "\n", 2)[0])
	enroll := exec.CommandContext(ctx, h.bin, "enroll", "--config", h.config, "--url", c.Nodes[0].AgentURL)
	enroll.Env = append(os.Environ(), "TRIWARD_TOKEN="+token)
	if out, err := enroll.CombinedOutput(); err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}

	// What is set for the group before the agent runs, and what every change adds.
	app := filepath.Join(home, "app", "app.log")
	set := func(rest string) (version uint64) {
		t.Helper()
		file := filepath.Join(dir, "web.yaml")
		body := fmt.Sprintf("heartbeat: {period: 1s}\nmetrics: {period: 2s}\njournal: {enabled: \"false\"}\nlogs:\n  files:\n    - include: [%s]\n%s", app, rest)
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		var v struct{ Version uint64 }
		err := until(ctx, 60*time.Second, func(ctx context.Context) error { // a new leader may still be looked for
			out, err := c.cli(ctx, asked, "agents", "config", "set", "web", file, "-o", "json")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return json.Unmarshal([]byte(out), &v)
		})
		if err != nil {
			t.Fatal(err)
		}
		return v.Version
	}
	stands := func(drift string, version uint64) (a fleetAgent) {
		t.Helper()
		err := until(ctx, 60*time.Second, func(ctx context.Context) (err error) {
			if a, err = c.theAgent(ctx, asked); err != nil {
				return err
			}
			if a.Config.Drift != drift || a.Config.Version != version {
				return fmt.Errorf("the agent stands %+v", a)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("want %s %d: %v", drift, version, err)
		}
		return a
	}
	written := 0
	file, err := os.Create(app)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	write := func(n int) {
		t.Helper()
		for range n {
			written++
			if _, err := fmt.Fprintf(file, "fleetline %d\n", written); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(100)
	first := set("      labels: {round: one}\n")
	h.start(t)
	a := stands("current", first)
	if a.Group != "web" || a.Clock == nil || a.Lag == nil {
		t.Errorf("the agent is known as %+v", a)
	}

	// The leader dies while the configuration changes, and the agent while it has the new one.
	leader, err := c.leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Nodes {
		if c.Nodes[i].ID != leader.ID {
			asked = &c.Nodes[i]
		}
	}
	write(100)
	if err := c.kill(leader); err != nil {
		t.Fatal(err)
	}
	write(100)
	second := set("      labels: {round: two}\n      drop: ['noise']\n")
	stands("current", second)
	if _, err := fmt.Fprintln(file, "noise that nobody wants"); err != nil {
		t.Fatal(err)
	}
	write(100)
	h.end(syscall.SIGKILL)
	write(100)
	h.start(t)
	err = until(ctx, 30*time.Second, func(ctx context.Context) error {
		if s, err := h.says(ctx); err != nil || s.Config.Version != second {
			return fmt.Errorf("started anew it says %+v, %w", s, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	// What this host does not allow is refused here, and said where an operator looks.
	evil := filepath.Join(dir, "evil.yaml")
	if err := os.WriteFile(evil, []byte("heartbeat: {period: 1s}\nlogs: {files: [{include: [/etc/shadow]}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cli("agents", "config", "set", "web", evil)
	a = stands("refused", second)
	if shown := cli("agents", "show", a.ID); !strings.Contains(shown, "logs.files[0].include[0]") || !strings.Contains(shown, "/etc/shadow") {
		t.Errorf("agents show says\n%s", shown)
	}
	if out, err := c.cli(ctx, asked, "agents", "config", "set", "web", h.config); err == nil || !strings.Contains(out, "data_dir not found") {
		t.Errorf("a file with keys of the host's own: %v\n%s", err, out)
	}
	cli("agents", "config", "rollback", "web", fmt.Sprint(second))
	stands("current", second+2)
	write(100)
	if diff := cli("agents", "config", "diff", "web", "--from", fmt.Sprint(first)); !strings.Contains(diff, "+      drop: ['noise']") {
		t.Errorf("the difference is\n%s", diff)
	}
	err = until(ctx, 60*time.Second, func(ctx context.Context) error {
		seen := map[string]bool{}
		var page struct {
			Rows []struct{ Text string }
			Next string
		}
		rows := 0
		for q := (url.Values{"query": {"fleetline OR noise"}, "limit": {"5000"}, "consistency": {"linearizable"}}); ; q.Set("cursor", page.Next) {
			page.Rows, page.Next = nil, ""
			if err := c.get(ctx, asked, "/v1/logs/query", q, &page); err != nil {
				return err
			}
			for _, r := range page.Rows {
				seen[r.Text] = true
				rows++
			}
			if page.Next == "" {
				break
			}
		}
		if rows != written || len(seen) != written {
			return fmt.Errorf("%d lines came, %d different ones, of %d", rows, len(seen), written)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	// Revoked: the stream that it sends by ends, and it is refused from then on.
	cli("agents", "revoke", a.ID)
	err = until(ctx, 60*time.Second, func(ctx context.Context) error {
		write(1) // so that it has something to send
		if s, err := h.says(ctx); err != nil || s.Connected {
			return fmt.Errorf("after it was revoked: %+v, %w", s, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = until(ctx, 60*time.Second, func(ctx context.Context) error {
		if s, err := h.says(ctx); err != nil || s.Connected || !strings.Contains(s.LastFailure, "revoked") {
			return fmt.Errorf("it says %+v, %w", s, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if a, err := c.theAgent(ctx, asked); err != nil || !a.Revoked {
		t.Errorf("the cluster knows it as %+v: %v", a, err)
	}
	if h.cmd.ProcessState != nil {
		t.Error("a refusal ended the agent")
	}
}
