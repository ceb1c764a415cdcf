package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance/internal/freeaddr"
)

// site is the machines of docs/operations.md, all on this one: each with a configuration and ports of its own.
type site struct {
	t        *testing.T
	bin, dir string
	machines map[string]*machine
	tokens   map[string]string // the last one printed, by its prefix
	log      *os.File
	running  []*exec.Cmd
}

type machine struct {
	name, config string
	http, agents string // URLs
}

// documented is a command of docs/operations.md: the machine's prompt, what is typed, perhaps a comment.
var documented = regexp.MustCompile(`(?m)^    (node[123]|host)# +(.+?)(?: +# .*)?$`)

func newSite(t *testing.T, bin string) *site {
	s := &site{t: t, bin: bin, dir: t.TempDir(), machines: make(map[string]*machine), tokens: make(map[string]string)}
	var err error
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, cmd := range s.running {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
		if b, _ := os.ReadFile(s.log.Name()); t.Failed() {
			t.Logf("the machines said last:\n%s", b[max(0, len(b)-8000):])
		}
		_ = s.log.Close()
	})
	for _, name := range []string{"node1", "node2", "node3", "host"} {
		s.machines[name] = s.newMachine(name)
	}
	return s
}

// newMachine writes the configuration that the document asks for.
func (s *site) newMachine(name string) *machine {
	at, err := freeaddr.Addresses(4)
	if err != nil {
		s.t.Fatal(err)
	}
	m := &machine{
		name: name, config: filepath.Join(s.dir, name, "config.yaml"),
		http: "https://" + at[3], agents: "https://" + at[0],
	}
	config := map[string]any{
		"self_monitoring": false, // so that a node which was restored still has the digests of its backup
		"node_id":         name, "data_dir": filepath.Join(s.dir, name, "data"), "backup": map[string]any{"dir": filepath.Join(s.dir, name, "backups")}, "listen": map[string]any{
			"http":   map[string]any{"address": at[3], "url": m.http},
			"agents": map[string]any{"address": at[0], "advertise": m.agents},
			"peer":   map[string]any{"address": at[1], "advertise": at[1]},
		},
	}
	if name == "host" {
		config = map[string]any{
			"data_dir": filepath.Join(s.dir, name, "data"), "status": map[string]any{"listen": at[2]},
			"journal": map[string]any{"enabled": "false"}, "logs": map[string]any{"files": []any{}},
		}
	}
	body, err := yaml.Marshal(config)
	if err == nil {
		err = os.Mkdir(filepath.Join(s.dir, name), 0o700)
	}
	if err == nil {
		err = os.WriteFile(m.config, body, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// here turns a command of the document into one for these machines.
func (s *site) here(m *machine, command string) string {
	for name, other := range s.machines {
		command = strings.ReplaceAll(command, "https://"+name+":8443", other.http)
		command = strings.ReplaceAll(command, "https://"+name+":8001", other.agents)
	}
	for prefix, token := range s.tokens {
		command = strings.ReplaceAll(command, prefix+"...", token)
	}
	return strings.ReplaceAll(command, "triward-agent ", "triward-agent --config "+m.config+" ")
}

// command prepares a command as somebody types it on the machine who has nothing in the environment.
func (s *site) command(ctx context.Context, m *machine, text string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", text)
	cmd.Dir = s.dir
	cmd.Env = []string{
		"PATH=" + s.bin + ":" + os.Getenv("PATH"), "HOME=" + filepath.Join(s.dir, m.name), "TRIWARD_CONFIG=" + m.config,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a command to its end and notes the token that it may have printed.
func (s *site) run(ctx context.Context, m *machine, text string) (out string, err error) {
	var o, e bytes.Buffer
	cmd := s.command(ctx, m, s.here(m, text))
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil {
		return o.String(), fmt.Errorf("%s# %s: %w\n%s%s", m.name, text, err, &o, &e)
	}
	for _, prefix := range []string{"twn_", "twa_"} {
		if strings.HasPrefix(o.String(), prefix) {
			s.tokens[prefix] = strings.TrimSpace(o.String())
		}
	}
	return o.String(), nil
}

// start runs a command that stays in the foreground.
func (s *site) start(m *machine, text string) {
	cmd := s.command(context.Background(), m, "exec "+s.here(m, text))
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.running = append(s.running, cmd)
}

// status asks the node of the machine as the document does, and says what is not as it should be.
func (s *site) status(ctx context.Context, m *machine, members int) error {
	out, err := s.run(ctx, m, "triward cluster status -o json")
	if err != nil {
		return err
	}
	var st struct {
		Leader    string
		Tolerates int
		Nodes     []struct {
			ID, Role string
			Voter    bool
		}
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return err
	}
	voters := 0
	for _, n := range st.Nodes {
		if n.Voter && n.Role != "unreachable" {
			voters++
		}
	}
	if st.Leader == "" || voters != members || st.Tolerates != (members-1)/2 {
		return fmt.Errorf("%s says %s", m.name, out)
	}
	return nil
}

// TestDocumentedCluster does what docs/operations.md says, command by command: three machines become a cluster, and a
// host's agent is registered with it.
func TestDocumentedCluster(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, binaries(t, ""))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	done := map[string]int{}
	for _, c := range documented.FindAllStringSubmatch(string(doc), -1) {
		m, text := s.machines[c[1]], c[2]
		switch what := strings.Join(strings.Fields(text)[:min(3, len(strings.Fields(text)))], " "); {
		case text == "triward server":
			s.start(m, text)
			done[text]++
			err = until(ctx, time.Minute, func(ctx context.Context) error { return s.status(ctx, m, done[text]) })
		case text == "triward-agent run":
			s.start(m, text)
			done[text]++
		case text == "triward agents list":
			done[text]++
			err = until(ctx, time.Minute, func(ctx context.Context) error {
				out, err := s.run(ctx, m, text)
				if err == nil && !strings.Contains(out, " up ") {
					err = errors.New(out)
				}
				return err
			})
		default:
			done[strings.TrimPrefix(what, "TRIWARD_JOIN_TOKEN=twn_... ")]++
			_, err = s.run(ctx, m, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if done["triward server"] != 3 || done["triward-agent run"] != 1 || done["triward agents list"] != 1 || done["triward cluster init"] != 1 {
		t.Errorf("the document has %v", done)
	}
	for _, name := range []string{"node1", "node2", "node3"} { // each with the token that it made for itself
		if err := s.status(ctx, s.machines[name], 3); err != nil {
			t.Error(err)
		}
		st, err := os.Stat(filepath.Join(s.dir, name, "data", "tls", "cli-token"))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("token of %s: %v", name, err)
		}
	}
	// Whoever may not read the node's files is told what is missing.
	stranger := s.command(ctx, s.machines["host"], "triward cluster status --addr "+s.machines["node1"].http)
	stranger.Env = append(stranger.Env, "TRIWARD_CONFIG=/nowhere")
	if out, err := stranger.CombinedOutput(); err == nil || !strings.Contains(string(out), "TRIWARD_CA") {
		t.Errorf("without CA and token: %v %s", err, out)
	}
}
