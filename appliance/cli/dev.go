package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// devOptions are the flags of `triward dev`.
type devOptions struct {
	nodes     int
	agent     bool
	dataDir   string
	httpPort  int
	plainHTTP bool
	receivers bool
	json      bool
}

// devLine is what `triward dev --json` prints in one line when everything is ready.
type devLine struct {
	User     string        `json:"user"`
	Password string        `json:"password"`
	Token    string        `json:"token"`        // administrator's bearer token for every HTTP API
	Recovery string        `json:"recovery_key"` // opens backups of this cluster
	CA       string        `json:"ca"`
	Nodes    []devNode     `json:"nodes"`
	Agent    *devAgentLine `json:"agent,omitempty"`
}

type devNode struct {
	ID       string `json:"id"`
	URL      string `json:"url"`
	AgentURL string `json:"agent_url"`
	PID      int    `json:"pid"`
	Config   string `json:"config"`
	DataDir  string `json:"data_dir"`
}

type devAgentLine struct {
	PID    int    `json:"pid"`
	Config string `json:"config"`
}

const maxDevNodes = 9

func newDev(s streams) *cobra.Command {
	var o devOptions
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a throw-away cluster and an agent of this machine, here, until interrupted",
		Long: `Starts three nodes and an agent as processes of their own on this machine and prints the address and the
login. A node that is killed stays down; "triward server --config FILE" starts it again. Without --data-dir
everything is gone at the end. While it runs, commands such as "triward query instant node_load1" ask it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.nodes < 1 || o.nodes > maxDevNodes {
				return fmt.Errorf("--nodes %d: want 1 to %d", o.nodes, maxDevNodes)
			}
			if o.httpPort < 0 || o.httpPort+o.nodes > 65536 {
				return fmt.Errorf("--http-port %d: want a port that leaves room for %d nodes, or 0 for free ones", o.httpPort, o.nodes)
			}
			return runDev(c.Context(), s, o)
		},
	}
	f := c.Flags()
	f.IntVar(&o.nodes, "nodes", 3, "how many nodes")
	f.BoolVar(&o.agent, "agent", true, "run an agent for this machine")
	f.StringVar(&o.dataDir, "data-dir", "", "keep everything here; empty: a temporary directory")
	f.IntVar(&o.httpPort, "http-port", 8443, "port of the first node, the others take the next ones; 0: free ports")
	f.BoolVar(&o.plainHTTP, "plain-http", false, "serve browsers without TLS (this machine only)")
	f.BoolVar(&o.receivers, "loopback-receivers", false, "let messages of alerts go to this machine, to try receivers")
	f.BoolVar(&o.json, "json", false, "print one line of JSON when ready")
	return c
}

func runDev(ctx context.Context, s streams, o devOptions) (err error) {
	// Children are told when the thread that started them ends, so this goroutine keeps its own.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, cleanup, err := devDir(o.dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanup()) }()
	if o.agent {
		if _, err := agentBinary(); err != nil {
			return err
		}
	}
	plan, err := planDev(dir, o)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	kids := newChildren(s.err)
	defer kids.stop()
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		logTo, err := childLog(s, o, filepath.Join(filepath.Dir(n.Config), "node.log"))
		if err != nil {
			return err
		}
		if n.PID, err = kids.start(n.ID, logTo, exe, "server", "--config", n.Config); err != nil {
			return err
		}
	}
	line, err := plan.ready(ctx, kids)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the cluster did not become ready: %w", err)
	}
	if o.agent {
		if line.Agent, err = startDevAgent(ctx, s, o, dir, line, kids); err != nil {
			return err
		}
	}
	defer func() { _ = removeContext(os.Getpid()) }()
	if err := saveContext(o, line); err != nil {
		fmt.Fprintf(s.err, "triward: commands will need TRIWARD_ADDR and TRIWARD_TOKEN: %v\n", err)
	}
	if err := announce(s, o, dir, line); err != nil {
		return err
	}
	return kids.watch(ctx)
}

// saveContext lets commands find the cluster. One that a program drives does not take the place of one that a
// person started and that still runs.
func saveContext(o devOptions, line *devLine) error {
	if held, err := readContext(); err == nil && o.json && held.PID > 0 && syscall.Kill(held.PID, 0) == nil {
		return nil
	}
	saved := Context{Token: line.Token, CA: line.CA, PID: os.Getpid()}
	for _, n := range line.Nodes {
		saved.Nodes = append(saved.Nodes, ContextNode{n.ID, n.URL})
	}
	return saved.write()
}

// devDir returns the directory and what is to be done with it at the end.
func devDir(dir string) (string, func() error, error) {
	if dir == "" {
		tmp, err := os.MkdirTemp("", "triward-dev-")
		if err != nil {
			return "", nil, fmt.Errorf("make temporary directory: %w", err)
		}
		return tmp, func() error { return os.RemoveAll(tmp) }, nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, fmt.Errorf("--data-dir: %w", err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return "", nil, fmt.Errorf("--data-dir: %w", err)
	}
	return abs, func() error { return nil }, nil
}

// childLog is where a child's log goes: with --json to standard error, for whoever drives us, else to a file.
func childLog(s streams, o devOptions, path string) (*os.File, error) {
	if f, ok := s.err.(*os.File); ok && o.json {
		return f, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of a child: %w", err)
	}
	return f, nil
}

func announce(s streams, o devOptions, dir string, line *devLine) error {
	if o.json {
		body, err := json.Marshal(line)
		if err != nil {
			return fmt.Errorf("print JSON line: %w", err)
		}
		_, err = fmt.Fprintf(s.out, "%s\n", body)
		return err
	}
	var urls []string
	for _, n := range line.Nodes[1:] {
		urls = append(urls, n.URL)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n  Triward runs.\n\n  open      %s\n  user      %s\n  password  %s\n  recovery  %s\n", line.Nodes[0].URL, line.User, line.Password, line.Recovery)
	if len(urls) > 0 {
		fmt.Fprintf(&b, "\n  the other nodes  %s\n", strings.Join(urls, "  "))
	}
	fmt.Fprintf(&b, "  data and logs    %s\n", dir)
	if !o.plainHTTP {
		fmt.Fprintf(&b, "  CA               %s (your browser asks once; import this to silence it)\n", line.CA)
	}
	b.WriteString("  try              triward query instant node_load1\n                   triward logs query error\n\n  Ctrl-C ends it.\n\n")
	_, err := fmt.Fprint(s.out, b.String())
	return err
}

// ready waits until every node serves, and logs in for a token.
func (p *devPlan) ready(ctx context.Context, kids *children) (*devLine, error) {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for _, n := range p.Nodes {
		t := target{addr: n.URL, ca: p.CA, timeout: 5 * time.Second}
		cl, err := t.client()
		if err != nil {
			return nil, err
		}
		if err := until(ctx, kids, func() error { return cl.get(ctx, "/-/ready", nil, nil) }); err != nil {
			return nil, fmt.Errorf("node %s: %w", n.ID, err)
		}
	}
	if p.Token == "" {
		if err := until(ctx, kids, func() error { return p.login(ctx) }); err != nil {
			return nil, err
		}
		if err := p.save(); err != nil {
			return nil, err
		}
	}
	return &devLine{User: p.User, Password: p.Password, Token: p.Token, Recovery: p.Recovery, CA: p.CA, Nodes: p.Nodes}, nil
}

// until tries until it succeeds, a child ends or ctx does.
func until(ctx context.Context, kids *children, try func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case name := <-kids.ended:
			return fmt.Errorf("%s ended", name)
		case <-tick.C:
		}
	}
}

// login makes the administrator's token.
func (p *devPlan) login(ctx context.Context) error {
	t := target{addr: p.Nodes[0].URL, ca: p.CA, timeout: 10 * time.Second}
	cl, err := t.client()
	if err != nil {
		return err
	}
	cookie, err := cl.login(ctx, p.User, p.Password)
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	cl.cookie = cookie
	var answer struct {
		Token string `json:"token"`
	}
	body := map[string]any{"name": "dev", "role": "administrator"}
	if err := cl.post(ctx, "/v1/tokens/api", body, &answer); err != nil {
		return fmt.Errorf("make API token: %w", err)
	}
	p.Token = answer.Token
	return nil
}
