package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/spf13/cobra"

	"github.com/triward/triward/agent"
	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/agent/sender"
	"github.com/triward/triward/agent/spool"
)

// memoryGoal is the soft limit of the heap: the collector of garbage works harder rather than letting the agent
// grow beyond what it is allowed on a host.
const memoryGoal = 28 << 20

// serviceUser is whom packages run the agent as.
const serviceUser = "triward-agent"

func runCommand(o *options) *cobra.Command {
	var ask bool
	cmd := &cobra.Command{
		Use: "run", Short: "Collect and send until stopped", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load()
			if ask {
				return askRegistered(&c, err)
			}
			if err != nil {
				return err
			}
			if err := owner.Become(c.DataDir, serviceUser); err != nil {
				return err
			}
			id, err := sender.LoadIdentity(c.IdentityPath())
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
				debug.SetGCPercent(40)
				debug.SetMemoryLimit(memoryGoal)
			}
			if os.Getenv("GOMAXPROCS") == "" {
				runtime.GOMAXPROCS(min(2, runtime.NumCPU())) // an agent is a guest on its machine
			}
			log := o.logger(&c)
			a, err := agent.New(agent.Options{Config: c, Identity: id, Version: version, Log: log})
			if err != nil {
				return err
			}
			log.Info("agent runs", "version", version, "agent", id.AgentID, "nodes", id.Nodes)
			return a.Run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&ask, "registered", false, "only say whether there is an identity (exit code 0 or 10); for the unit")
	return cmd
}

// askRegistered is the condition of the unit: an agent without an identity is not started, and is no failed unit.
// Everything else that is wrong the start itself reports.
func askRegistered(c *config.Config, failed error) error {
	if failed != nil {
		return nil
	}
	if _, err := sender.LoadIdentity(c.IdentityPath()); errors.Is(err, sender.ErrNotRegistered) {
		return err
	}
	return nil
}

// enrollment is what the flags of enroll say.
type enrollment struct {
	node, token, tokenFile, ca, pin string
	force                           bool
}

func enrollCommand(o *options) *cobra.Command {
	var e enrollment
	cmd := &cobra.Command{
		Use: "enroll", Short: "Redeem a token for an identity and a certificate",
		Long: `Makes a key, which never leaves this machine, and redeems a token of ` + "`triward agents token create`" + ` for a
certificate. The token names the cluster's CA by its hash, so that nothing else need be trusted; --ca-sha256 overrides
it, --ca is for a listener that has a certificate of another CA.`,
		Example: "  TRIWARD_TOKEN=twa_... triward-agent enroll --url https://node1:8001",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load()
			if err != nil {
				return err
			}
			path := c.IdentityPath()
			if _, err := os.Stat(path); err == nil && !e.force {
				return fmt.Errorf("this machine is enrolled already (%s): use --force to enroll anew", path)
			}
			if err := sender.CheckURL(e.node); err != nil {
				return &configError{err}
			}
			if e.tokenFile != "" {
				b, err := os.ReadFile(e.tokenFile)
				if err != nil {
					return fmt.Errorf("read token: %w", err)
				}
				e.token = string(b)
			}
			if e.token == "" {
				e.token = os.Getenv("TRIWARD_TOKEN")
			}
			if e.token = strings.TrimSpace(e.token); e.token == "" {
				return &configError{errors.New("give --token, --token-file or TRIWARD_TOKEN")}
			}
			return e.run(cmd.Context(), o, &c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&e.node, "url", "", "address of a node for agents, https://host:8001")
	f.StringVar(&e.token, "token", "", "token from `triward agents token create`; better in a file or the environment (TRIWARD_TOKEN)")
	f.StringVar(&e.tokenFile, "token-file", "", "file that holds the token")
	f.StringVar(&e.pin, "ca-sha256", "", "hash of the public key of the cluster's CA; otherwise the one in the token")
	f.StringVar(&e.ca, "ca", "", "PEM file of the CA of the node's listener, when that is not the cluster's")
	f.BoolVar(&e.force, "force", false, "replace an identity that is there")
	cobra.CheckErr(cmd.MarkFlagRequired("url"))
	return cmd
}

// transport is the connection to a node that is not known yet, and the PEM of the CA where a file was given.
func (e *enrollment) transport(c *config.Config) (t *http.Transport, pem string, err error) {
	if e.ca == "" {
		e.ca = c.CA
	}
	if e.pin == "" {
		e.pin = sender.TokenPin(e.token)
	}
	if e.ca != "" {
		b, err := os.ReadFile(e.ca)
		if err != nil {
			return nil, "", fmt.Errorf("read CA: %w", err)
		}
		t, err := sender.NewTransport(string(b), c.ServerName, nil)
		return t, string(b), err
	}
	if e.pin == "" {
		return nil, "", errors.New("the token names no CA: give --ca-sha256 or --ca")
	}
	t, err = sender.NewPinnedTransport(e.pin)
	return t, "", err
}

func (e *enrollment) run(ctx context.Context, o *options, c *config.Config) error {
	t, pem, err := e.transport(c)
	if err != nil {
		return &configError{err}
	}
	if err := owner.Become(c.DataDir, serviceUser); err != nil { // before the token is used up
		return err
	}
	defer t.CloseIdleConnections()
	node := strings.TrimRight(e.node, "/")
	id, err := sender.NewClient(t).Enroll(ctx, node, e.token, agent.DescribeHost(version))
	if err != nil {
		return err
	}
	if pem != "" {
		id.CA = pem
	} else if err := sender.CheckPin(id.CA, e.pin); err != nil {
		return fmt.Errorf("enroll at %s: %w", node, err)
	}
	if !slices.Contains(id.Nodes, node) {
		id.Nodes = append([]string{node}, id.Nodes...)
	}
	if err := id.Save(c.IdentityPath()); err != nil {
		return err
	}
	fmt.Fprintf(o.out, "enrolled as %s with cluster %s, identity in %s\n", id.AgentID, id.ClusterID, c.IdentityPath())
	if o.configPath == config.DefaultPath {
		fmt.Fprintln(o.err, "Start the agent: systemctl start triward-agent")
	} else {
		fmt.Fprintln(o.err, "Start the agent: triward-agent run --config "+o.configPath)
	}
	return nil
}

func statusCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show what the running agent does", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load()
			if err != nil {
				return err
			}
			if c.Status.Listen == "" || c.Status.Listen == "0" {
				return &configError{errors.New("status.listen is off: the agent cannot be asked")}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Status.Listen+"/status", nil)
			if err != nil {
				return fmt.Errorf("ask agent: %w", err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return fmt.Errorf("ask agent (does it run?): %w", err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			if err != nil {
				return fmt.Errorf("ask agent: %w", err)
			}
			var s agent.Status
			if err := json.Unmarshal(b, &s); err != nil {
				return fmt.Errorf("answer of %s is not the agent's: %w", c.Status.Listen, err)
			}
			if asJSON {
				_, err = o.out.Write(b)
				return err
			}
			printStatus(o.out, &s)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(w io.Writer, s *agent.Status) {
	fmt.Fprintf(w, "agent     %s, version %s, up %s\n", s.AgentID, s.Version, time.Duration(s.UptimeS)*time.Second)
	state := "not connected"
	if s.Connected {
		state = "connected"
	}
	fmt.Fprintf(w, "node      %s, %s\n", s.Node, state)
	if s.LastFailure != "" {
		fmt.Fprintf(w, "failure   %s\n", s.LastFailure)
	}
	if s.LastAckMS > 0 {
		fmt.Fprintf(w, "last ack  %s ago\n", time.Since(time.UnixMilli(s.LastAckMS)).Round(time.Second))
	}
	if s.CertExpiresMS > 0 {
		fmt.Fprintf(w, "cert      until %s\n", time.UnixMilli(s.CertExpiresMS).UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(w, "sources   %d files, journal %v\n", s.Files, s.Journal)
	printConfig(w, &s.Config)
	printSpool(w, &s.Spool)
}

// printConfig shows what of the cluster's configuration is in effect on this host.
func printConfig(w io.Writer, c *agent.ConfigReport) {
	text := c.State
	if c.Version > 0 {
		text = fmt.Sprintf("version %d of group %s, %s", c.Version, c.Group, c.State)
	}
	fmt.Fprintf(w, "config    %s\n", text)
	if c.Error != "" {
		fmt.Fprintf(w, "          version %d: %s\n", c.WantedVersion, strings.ReplaceAll(c.Error, "\n", "; "))
	}
	if len(c.Own) > 0 {
		fmt.Fprintf(w, "          kept as agent.yaml has it: %s\n", strings.Join(c.Own, ", "))
	}
}

func printSpool(w io.Writer, st *spool.Stats) {
	fmt.Fprintf(w, "epoch     %s, %d series\n", st.Epoch, st.Series)
	fmt.Fprintf(w, "%-9s %10s %10s %9s %12s %12s %10s\n", "lane", "acked", "next", "waiting", "bytes", "limit", "lost items")
	names := make([]string, 0, len(st.Lanes))
	for n := range st.Lanes {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		l := st.Lanes[n]
		fmt.Fprintf(w, "%-9s %10d %10d %9d %12d %12d %10d\n", n, l.Acked, l.Next, l.Waiting, l.Bytes, l.Limit, l.Lost)
	}
}

func checkCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "check-config", Short: "Check the configuration file", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			o.explicit = true
			if _, err := o.load(); err != nil {
				return err
			}
			_, err := fmt.Fprintf(o.out, "%s is good\n", o.configPath)
			return err
		},
	}
}

func testCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "test", Short: "Print one scrape of this machine, sending nothing", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := o.load()
			if err != nil {
				return err
			}
			g, err := agent.NodeGatherer(&c.Metrics, o.logger(&c))
			if err != nil {
				return err
			}
			families, err := g.Gather()
			if err != nil {
				fmt.Fprintln(o.err, "some metrics cannot be gathered:", err)
			}
			var b bytes.Buffer
			for _, f := range families {
				if ex := c.Metrics.ExcludeMetrics(); ex != nil && ex.MatchString(f.GetName()) {
					continue
				}
				if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
					return fmt.Errorf("print metrics: %w", err)
				}
			}
			_, err = o.out.Write(b.Bytes())
			return err
		},
	}
}

func spoolCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "spool", Short: "Show the spool of an agent that does not run", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := o.load()
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(c.SpoolDir(), "lock")); err != nil {
				return fmt.Errorf("there is no spool in %s", c.SpoolDir())
			}
			if err := owner.Become(c.DataDir, serviceUser); err != nil {
				return err
			}
			sp, err := spool.Open(c.SpoolDir(), spool.Options{MaxBytes: int64(c.Spool.MaxBytes), MaxSeries: c.Spool.MaxSeries})
			if errors.Is(err, spool.ErrLocked) {
				return fmt.Errorf("%w: ask the running agent with `triward-agent status`", err)
			}
			if err != nil {
				return err
			}
			st := sp.Stats()
			printSpool(o.out, &st)
			for _, dir := range spool.DamagedBeside(c.SpoolDir()) {
				fmt.Fprintf(o.out, "damaged   %s\n", dir)
			}
			return sp.Close()
		},
	}
	return cmd
}
