package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance/internal/freeaddr"
	"github.com/triward/triward/appliance/pki"
)

// agentBinary is triward-agent beside this program.
func agentBinary() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	path := filepath.Join(filepath.Dir(exe), "triward-agent")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the agent is not beside this program (build it, or give --agent=false): %w", err)
	}
	return path, nil
}

// devPeriod is how often the agent of `triward dev` collects: people look at it while it runs.
const devPeriod = "5s"

// startDevAgent runs the agent of this machine. It enrolls the first time.
func startDevAgent(ctx context.Context, s streams, o devOptions, dir string, line *devLine, kids *children) (*devAgentLine, error) {
	program, err := agentBinary()
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "agent")
	config := filepath.Join(home, "agent.yaml")
	if _, err := os.Stat(config); errors.Is(err, os.ErrNotExist) {
		if err := enrollDevAgent(ctx, program, home, config, line); err != nil {
			return nil, err
		}
	}
	logTo, err := childLog(s, o, filepath.Join(home, "agent.log"))
	if err != nil {
		return nil, err
	}
	pid, err := kids.start("agent", logTo, program, "run", "--config", config)
	if err != nil {
		return nil, err
	}
	return &devAgentLine{PID: pid, Config: config}, nil
}

// enrollDevAgent writes the agent's configuration, last of all, and redeems a token for its identity.
func enrollDevAgent(ctx context.Context, program, home, config string, line *devLine) error {
	t := target{addr: line.Nodes[0].URL, ca: line.CA, token: line.Token, timeout: 10 * time.Second}
	cl, err := t.client()
	if err != nil {
		return err
	}
	var tok tokenAnswer
	body := map[string]any{"kind": "agent", "uses": 1, "life_s": 600, "note": "triward dev"}
	if err := cl.post(ctx, "/v1/tokens/join", body, &tok); err != nil {
		return fmt.Errorf("make token for the agent: %w", err)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return fmt.Errorf("make directory of the agent: %w", err)
	}
	tokenFile := filepath.Join(home, "token")
	if err := pki.WriteSecret(tokenFile, []byte(tok.Token)); err != nil {
		return err
	}
	defer os.Remove(tokenFile)
	status, err := freeaddr.Addresses(1)
	if err != nil {
		return err
	}
	var urls []string
	for _, n := range line.Nodes {
		urls = append(urls, n.AgentURL)
	}
	files := []map[string]any{
		{"include": []string{"/var/log/*.log", "/var/log/syslog", "/var/log/messages", "/var/log/**/*.log"}},
		{"include": []string{filepath.Join(filepath.Dir(home), "*", "node.log")}}, // what our own nodes log
	}
	text, err := yaml.Marshal(map[string]any{
		"data_dir": filepath.Join(home, "data"), "servers": urls,
		"metrics": map[string]any{"period": devPeriod}, "logs": map[string]any{"files": files}, "status": map[string]any{"listen": status[0]},
	})
	if err != nil {
		return fmt.Errorf("write configuration of the agent: %w", err)
	}
	fresh := config + ".new"
	if err := pki.WriteSecret(fresh, text); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, program, "enroll", "--force", "--config", fresh,
		"--url", line.Nodes[0].AgentURL, "--token-file", tokenFile).CombinedOutput()
	if err != nil {
		return fmt.Errorf("enroll the agent: %w\n%s", err, out)
	}
	return os.Rename(fresh, config)
}
