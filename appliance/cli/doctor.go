package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/doctor"
)

func newDoctor(s streams) *cobra.Command {
	var t target
	var path string
	var form outputForm
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps this node from working, now or soon",
		Long: `Looks at clock, disk, memory, limits, ports, names, certificates and keys of this machine, before the node is set up and
afterwards, whether it runs or not. While it runs, also at the other nodes: their clocks, versions and key rings, whether
they are reached, and when the cluster was last backed up. Before the node is set up, --addr names a node of the cluster to
compare clocks with. What is not well comes with its remedy. Run it as root; it changes nothing.

Exit codes: 0 all is well, 3 with warnings only, 1 with a problem.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			report := examine(c.Context(), &t, path)
			if err := printReport(s, &form, report); err != nil {
				return err
			}
			switch problems, warnings := report.Count(doctor.Problem), report.Count(doctor.Warning); {
			case problems > 0:
				return fmt.Errorf("%d problem(s), %d warning(s)", problems, warnings)
			case warnings > 0:
				return errWarnings
			}
			return nil
		},
	}
	configFlag(c, &path)
	t.flags(c)
	form.flag(c)
	return c
}

func printReport(s streams, form *outputForm, report doctor.Report) error {
	if form.json() {
		return writeJSON(s.out, map[string]any{
			"checks": report, "problems": report.Count(doctor.Problem), "warnings": report.Count(doctor.Warning),
		})
	}
	tab := newTable(s.out, "check", "state", "what", "found")
	for _, f := range report {
		tab.row(f.Check, string(f.Status), f.Subject, f.Detail)
	}
	if err := tab.flush(); err != nil {
		return err
	}
	first := true
	for _, f := range report {
		if f.Remedy == "" {
			continue
		}
		if first {
			fmt.Fprintln(s.out)
			first = false
		}
		fmt.Fprintf(s.out, "%s, %s: %s\n    %s\n", f.Check, printable(f.Subject), f.Status, printable(f.Remedy))
	}
	return nil
}

// examine looks at everything that can be looked at.
func examine(ctx context.Context, t *target, path string) (report doctor.Report) {
	defer func() { report.Sort() }()
	cfg, err := appliance.LoadConfig(path)
	if err == nil {
		err = cfg.Resolve()
	}
	if err != nil {
		return append(judgeConfig(path, err), doctor.Machine(ctx)...)
	}
	report.Add("configuration", path, doctor.OK, "good", "")
	running, err := cfg.Running()
	if err != nil {
		report.Add("node", cfg.NodeID, doctor.Warning, err.Error(), "run this as root, or as the user that the node runs as")
	}
	// What is only root's is read before this becomes somebody else.
	cl, errClient := t.ofNode(path, running)
	if _, err := os.Stat(cfg.DataDir); err == nil {
		if err := owner.Become(cfg.DataDir, serviceUser); err != nil {
			report.Add("node", cfg.DataDir, doctor.Warning, err.Error(), "run this as root")
		}
	}
	report = append(report, doctor.Local(ctx, &cfg, running)...)
	switch {
	case errClient != nil:
		report.Add("cluster", "this node", doctor.Warning, errClient.Error(), "run this as root, or give TRIWARD_TOKEN and TRIWARD_CA")
	case running:
		report = append(report, examineCluster(ctx, cl, cfg.NodeID)...)
	case t.addr != "":
		report = append(report, compareClock(ctx, t.addr)...)
	}
	return report
}

func judgeConfig(path string, err error) (r doctor.Report) {
	var bad *appliance.ConfigError
	if !errors.As(err, &bad) {
		r.Add("configuration", path, doctor.Problem, err.Error(), "mend it, then: triward config check")
		return r
	}
	for _, p := range bad.Problems {
		subject := bad.Source
		if p.Line > 0 {
			subject += ":" + strconv.Itoa(p.Line)
		}
		detail := p.Message
		if p.Path != "" {
			detail = p.Path + ": " + detail
		}
		r.Add("configuration", subject, doctor.Problem, detail, "mend it, then: triward config check")
	}
	return r
}

// ofNode is a client of the node whose configuration lies at path, unless the flags name another; nil when there is
// nobody to ask.
func (t *target) ofNode(path string, running bool) (*client, error) {
	if t.addr != "" || t.node != "" {
		return t.client()
	}
	if !running {
		return nil, nil
	}
	known, err := localNode(path)
	if err != nil {
		return nil, err
	}
	return t.clientOf(&known)
}

// compareClock holds this machine's clock against that of a node that need not know us: by the date that every answer
// carries, to the second.
func compareClock(ctx context.Context, addr string) (r doctor.Report) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, addr+"/-/healthy", nil)
	if err != nil {
		r.Add("clock", "against "+addr, doctor.Warning, err.Error(), "check --addr")
		return r
	}
	began := time.Now()
	look := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // nothing is believed but the time of day
	defer look.CloseIdleConnections()
	resp, err := look.Do(req)
	if err != nil {
		r.Add("ports", addr, doctor.Problem, err.Error(), "start that node, check --addr, and let the port through the firewalls between the two")
		return r
	}
	_ = resp.Body.Close()
	half := time.Since(began) / 2
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		r.Add("clock", "against "+addr, doctor.Warning, "its answer has no date", "check --addr")
		return r
	}
	r.Add("ports", addr, doctor.OK, "reached", "")
	const second = time.Second // the date says the second that had begun
	r = append(r, doctor.Offset(addr, date.Add(second/2).Sub(began.Add(half)), half+second/2))
	return r
}

// examineCluster asks the node that runs here about the others.
func examineCluster(ctx context.Context, cl *client, self string) (r doctor.Report) {
	var a clusterAnswer
	if err := cl.get(ctx, "/v1/cluster", nil, &a); err != nil {
		r.Add("cluster", "this node", doctor.Problem, err.Error(), remedyOf(err))
		return r
	}
	switch {
	case a.NoMajority != "":
		r.Add("cluster", "leader", doctor.Problem, "none, and none can be elected: nothing can be written", a.NoMajority)
	case a.Leader == "":
		r.Add("cluster", "leader", doctor.Problem, "none: nothing can be written", "bring up so many nodes that more than half run")
	case a.Tolerates == 0 && len(a.Nodes) > 1:
		r.Add("cluster", "leader", doctor.Warning, a.Leader+"; no further node may fail", "bring up the nodes that are missing")
	case len(a.Nodes) == 1:
		r.Add("cluster", "leader", doctor.Warning, a.Leader+", the only node: its disk is the only copy", "let two more nodes join: triward cluster token create")
	default:
		r.Add("cluster", "leader", doctor.OK, fmt.Sprintf("%s; %d more node(s) may fail", a.Leader, a.Tolerates), "")
	}
	var others []doctor.Member
	for i := range a.Nodes {
		n := &a.Nodes[i]
		r = append(r, judgeNode(n, self)...)
		if n.ID != self {
			others = append(others, doctor.Member{ID: n.ID, Peer: n.Peer, AgentURL: n.AgentURL, URL: n.URL})
		}
	}
	r = append(r, doctor.Members(ctx, others)...)
	r = append(r, judgeVersions(&a, self)...)
	_, differ := keyRows(&a)
	for _, bad := range differ {
		r.Add("keys", "key ring of the nodes", doctor.Warning, bad, "a node takes the ring from another by itself; `triward key status` shows who has which")
	}
	r = append(r, judgeFigures(ctx, cl)...)
	r = append(r, judgeBackups(ctx, cl)...)
	return r
}

func remedyOf(err error) string {
	if hint := hintOf(err); hint != "" {
		return hint
	}
	return "look at the node's log: journalctl -u triward"
}

// judgeNode is about one node as the others see it.
func judgeNode(n *clusterNode, self string) (r doctor.Report) {
	if n.Role == "unreachable" {
		r.Add("cluster", n.ID, doctor.Problem, "does not answer the other nodes", "start it: systemctl start triward; see its log: journalctl -u triward")
		return r
	}
	detail := fmt.Sprintf("%s, %d entries behind", n.Role, n.Lag)
	switch {
	case n.Probation:
		r.Add("cluster", n.ID, doctor.Warning, detail+", no vote yet", "wait until it has caught up, and stop no other node")
	case n.Lag > 10_000:
		r.Add("cluster", n.ID, doctor.Warning, detail, "wait until it has caught up; if it does not, look at its disk")
	default:
		r.Add("cluster", n.ID, doctor.OK, detail, "")
	}
	if n.ID == self {
		return r
	}
	if n.ClockMS > 0 {
		r = append(r, doctor.Offset(n.ID, time.Duration(n.OffsetMS)*time.Millisecond, time.Duration(n.WithinMS)*time.Millisecond))
	}
	if n.Disk.Total > 0 {
		part := n.Disk.Free * 100 / n.Disk.Total
		status := doctor.OK
		switch {
		case part < 5:
			status = doctor.Problem
		case part < 20:
			status = doctor.Warning
		}
		r.Add("disk", "of "+n.ID, status, fmt.Sprintf("%s of %s free (%d %%)", bytesText(n.Disk.Free), bytesText(n.Disk.Total), part), "run `triward doctor` on "+n.ID)
	}
	if left := time.Until(time.UnixMilli(n.CertExpires)); n.CertExpires > 0 && left < 20*24*time.Hour {
		r.Add("certificates", "of "+n.ID, doctor.Warning, "until "+time.UnixMilli(n.CertExpires).UTC().Format(time.DateOnly), "run `triward doctor` on "+n.ID)
	}
	return r
}

// judgeVersions says whether all nodes run the same program, and whether it is the one that is installed here.
func judgeVersions(a *clusterAnswer, self string) (r doctor.Report) {
	by := make(map[string][]string)
	for i := range a.Nodes {
		n := &a.Nodes[i]
		if n.Version == "" || n.Role == "unreachable" {
			continue
		}
		by[n.Version] = append(by[n.Version], n.ID)
		if n.ID == self && n.Version != Version() {
			r.Add("versions", "this node", doctor.Warning, "runs "+n.Version+", installed is "+Version(), "start it again: systemctl restart triward")
		}
	}
	var parts []string
	for v, ids := range by {
		parts = append(parts, v+" on "+strings.Join(ids, " "))
	}
	switch {
	case len(by) > 1:
		r.Add("versions", "of the nodes", doctor.Warning, strings.Join(slices.Sorted(slices.Values(parts)), "; "), "install the same package on all nodes, one after the other")
	case len(by) == 1:
		r.Add("versions", "of the nodes", doctor.OK, strings.Join(parts, ""), "")
	}
	return r
}

// figure finds a metric without labels in the text form.
func figure(text, name string) (int64, bool) {
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(found[1], 64)
	return int64(v), err == nil
}

// judgeFigures reads what the running node measures of itself.
func judgeFigures(ctx context.Context, cl *client) (r doctor.Report) {
	text, err := cl.text(ctx, "/metrics")
	if err != nil {
		r.Add("limits", "open files of the node", doctor.Warning, err.Error(), remedyOf(err))
		return r
	}
	open, ok := figure(text, "process_open_fds")
	most, ok2 := figure(text, "process_max_fds")
	if ok && ok2 {
		r = append(r, doctor.OpenFiles(open, most))
	}
	if suspect, ok := figure(text, "triward_raft_clock_suspect"); ok && suspect != 0 {
		r.Add("clock", "this node", doctor.Problem, "the cluster does not go by this node's clock", "set the clock, look at its time service")
	}
	return r
}
