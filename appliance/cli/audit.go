package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/raftstate/meta"
)

func newAudit(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "audit", Short: "Who did what, and proof that nobody changed it", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newAuditQuery(s, &t), newAuditVerify(s, &t), newAuditExport(s, &t))
	return c
}

func newAuditQuery(s streams, t *target) *cobra.Command {
	var form outputForm
	var actor, action, object, start, end string
	var limit int
	c := &cobra.Command{
		Use:   "query",
		Short: "Print records of the audit log, the newest first",
		Long: `Prints who did what from where, the newest first. With -o json each record is one line, whole, as the log keeps it.
Failed logins and refused requests are noted in a bounded number; a record tells how many had none of their own.`,
		Example: "  triward audit query --action user\n  triward audit query --actor ada --start now-7d --limit 1000 -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit %d: want at least 1", limit)
			}
			q := url.Values{}
			for name, v := range map[string]string{"actor": actor, "action": action, "target": object} {
				if v != "" {
					q.Set(name, v)
				}
			}
			now := time.Now()
			for name, v := range map[string]string{"start": start, "end": end} {
				if v == "" {
					continue
				}
				at, err := parseTime(v, now)
				if err != nil {
					return fmt.Errorf("--%s: %w", name, err)
				}
				q.Set(name, strconv.FormatInt(at.UnixNano(), 10))
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			return auditPages(c.Context(), s, cl, &form, q, limit)
		},
	}
	form.flag(c)
	f := c.Flags()
	f.StringVar(&actor, "actor", "", "part of the name of who did it")
	f.StringVar(&action, "action", "", "action such as user.create, or its beginning such as user")
	f.StringVar(&object, "target", "", "part of what it was done to")
	f.StringVar(&start, "start", "", "from: RFC 3339, Unix seconds, now-7d")
	f.StringVar(&end, "end", "", "before")
	f.IntVar(&limit, "limit", 100, "how many records at most")
	return c
}

// auditPages prints pages until enough was printed or there are no more.
func auditPages(ctx context.Context, s streams, cl *client, form *outputForm, q url.Values, limit int) error {
	tab := newTable(io.Discard)
	if !form.json() {
		tab = newTable(s.out, "number", "time", "actor", "from", "action", "target", "detail")
	}
	for printed := 0; printed < limit; {
		q.Set("limit", strconv.Itoa(min(limit-printed, 1000)))
		var page auditlog.ChainPage
		if err := cl.get(ctx, "/v1/audit", q, &page); err != nil {
			return err
		}
		for i := range page.Records {
			r := &page.Records[i]
			if form.json() {
				line, err := json.Marshal(r)
				if err != nil {
					return fmt.Errorf("print record: %w", err)
				}
				if _, err := fmt.Fprintf(s.out, "%s\n", line); err != nil {
					return err
				}
				continue
			}
			tab.row(strconv.FormatUint(r.Seq, 10), timeText(r.Time), r.Actor, r.Address, r.Action, r.Target, string(r.Detail))
		}
		printed += len(page.Records)
		if page.Next == 0 {
			break
		}
		q.Set("before", strconv.FormatUint(page.Next, 10))
	}
	return tab.flush()
}

// errChain says that the audit log is not what it was.
var errChain = errors.New("the audit log is not whole")

func newAuditVerify(s streams, t *target) *cobra.Command {
	var form outputForm
	var open openFlags
	var expect, stage string
	c := &cobra.Command{
		Use:   "verify [FILE|-]",
		Short: "Check that no record of the audit log was edited, lost or moved",
		Long: `Reads the whole log of the node and checks it here, record by record, against the head of its chain; the node's own word
is not taken. With FILE it checks an export (` + "`triward audit export`" + `) or a backup, without any node. Exit code 13: it does not fit.

Every chain can be written anew by whoever can write everything. What cannot is a note: the last line printed, kept on
paper or on another machine, is compared with --expect at any later time. 3 is the exit code when that record is older
than what is still kept.`,
		Example: "  triward audit verify\n  triward audit verify --expect 1234:9f86d081...\n  triward audit verify /var/backups/triward/triward-1234.triward --identity key.txt",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var point *auditlog.Point
			if expect != "" {
				p, err := auditlog.ParsePoint(expect)
				if err != nil {
					return fmt.Errorf("--expect: %w", err)
				}
				point = &p
			}
			var v auditlog.ChainVerdict
			var err error
			if len(args) == 1 {
				v, err = verifyAuditFile(c.Context(), s, args[0], &open, stage, point)
			} else {
				v, err = verifyAuditNode(c.Context(), t, point)
			}
			if err != nil {
				return err
			}
			return printVerdict(s, &form, &v)
		},
	}
	form.flag(c)
	open.flags(c)
	c.Flags().StringVar(&expect, "expect", "", "NUMBER:HASH of a record as it was noted before")
	c.Flags().StringVar(&stage, "stage", "", "folder to unpack a backup in (the system's for temporary files)")
	return c
}

// exported opens the export of a node.
func exported(ctx context.Context, cl *client) (io.ReadCloser, error) {
	resp, err := cl.reach(ctx, http.MethodGet, "/v1/audit/export", nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what could not be read says less
		return nil, newAPIError(resp, said)
	}
	return resp.Body, nil
}

func verifyAuditNode(ctx context.Context, t *target, point *auditlog.Point) (auditlog.ChainVerdict, error) {
	cl, err := t.client()
	if err != nil {
		return auditlog.ChainVerdict{}, err
	}
	v, failed := verifyExported(ctx, cl, point)
	if failed == nil {
		return v, nil
	}
	if answer, ok := errors.AsType[*apiError](failed); ok && answer.Status != http.StatusInternalServerError {
		return v, failed
	}
	// A chain with a gap cannot be exported: the node says what is wrong with it.
	q := url.Values{}
	if point != nil {
		q.Set("expect", fmt.Sprintf("%d:%s", point.Seq, point.Hash))
	}
	if err := cl.get(ctx, "/v1/audit/verify", q, &v); err != nil || v.OK {
		return v, failed
	}
	return v, nil
}

func verifyExported(ctx context.Context, cl *client, point *auditlog.Point) (auditlog.ChainVerdict, error) {
	body, err := exported(ctx, cl)
	if err != nil {
		return auditlog.ChainVerdict{}, err
	}
	defer body.Close()
	return auditlog.VerifyExport(body, point)
}

func verifyAuditFile(ctx context.Context, s streams, name string, open *openFlags, stage string, point *auditlog.Point) (v auditlog.ChainVerdict, err error) {
	in, size, err := openBackup(ctx, s, &open.s3, name)
	if err != nil {
		return v, err
	}
	defer in.Close()
	r := bufio.NewReader(in)
	if first, err := r.Peek(1); err == nil && first[0] == '{' {
		v, err = auditlog.VerifyExport(r, point)
		if err != nil {
			return v, fmt.Errorf("%s: %w", name, err)
		}
		return v, nil
	}
	ids, err := open.read(s)
	if err != nil {
		return v, err
	}
	p := newProgress(s.err, "checking", size)
	defer p.end()
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	err = backup.WithMetadata(ctx, backup.Stream(p.reader(r)), backup.VerifyOptions{Identities: ids, Stage: stage, Phase: p.enter}, func(m *backup.Manifest, state *meta.Store) error {
		v, err = auditlog.New(state).Verify(ctx, point)
		v.Origin = &auditlog.ExportOrigin{Cluster: m.Cluster, Node: m.Node, LogTime: m.LogTime}
		return err
	})
	if errors.Is(err, container.ErrNotBackup) {
		err = errors.New("neither an export of the audit log nor a backup")
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", name, orCancelled(ctx, err))
	}
	return v, nil
}

func printVerdict(s streams, form *outputForm, v *auditlog.ChainVerdict) error {
	if form.json() {
		if err := writeJSON(s.out, v); err != nil {
			return err
		}
	} else {
		printChecks(s.out, v)
	}
	switch {
	case v.Fault != "":
		return fmt.Errorf("%w: %s", errChain, v.Fault)
	case v.Expected == auditlog.ExpectedDiffer:
		return fmt.Errorf("%w: the record that was noted is another one now; the chain was written anew", errChain)
	case v.Expected == auditlog.ExpectedAhead:
		return fmt.Errorf("%w: it ends at record %d, before the one that was noted", errChain, v.Head.Seq)
	case v.Expected == auditlog.ExpectedGone:
		fmt.Fprintf(s.err, "The record that was noted is older than what is kept, which begins at %d: nothing can be said of it.\n", v.Head.First)
		return errWarnings
	}
	return nil
}

func printChecks(w io.Writer, v *auditlog.ChainVerdict) {
	if o := v.Origin; o != nil {
		fmt.Fprintf(w, "of        cluster %s, node %s, %s\n", o.Cluster, o.Node, timeText(o.LogTime))
	}
	if v.Head.Seq == 0 {
		fmt.Fprintln(w, "records   none")
		return
	}
	fmt.Fprintf(w, "records   %d to %d (%s)\n", v.Head.First, v.Head.Seq, bytesText(v.Head.Bytes))
	if v.Fault == "" {
		fmt.Fprintln(w, "chain     whole: no record was edited, lost or moved")
	}
	if v.Expected != "" {
		fmt.Fprintf(w, "expected  %s\n", v.Expected)
	}
	fmt.Fprintf(w, "note      %d:%s\n", v.Head.Seq, v.Head.Hash)
}

func newAuditExport(s streams, t *target) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "export FILE|-",
		Short: "Write the whole audit log as JSON lines that prove themselves",
		Long: `The first line names the head of the chain, each that follows is a record as the log keeps it, the oldest first. The file is
checked with ` + "`triward audit verify FILE`" + `. The cluster forgets its oldest records when there are more than 200,000 or they
take more than 256 MiB: export from time to time what must be kept longer.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			body, err := exported(c.Context(), cl)
			if err != nil {
				return err
			}
			defer body.Close()
			to, err := createTarget(s, args[0], force)
			if err != nil {
				return err
			}
			defer to.abandon()
			var v auditlog.ChainVerdict
			err = to.put(c.Context(), 0, func(w io.Writer) (err error) {
				// What arrives is checked as it passes: a connection that was cut leaves no file.
				v, err = auditlog.VerifyExport(io.TeeReader(body, w), nil)
				return err
			})
			if err != nil {
				return fmt.Errorf("export audit log: %w", err)
			}
			if v.Fault != "" { // kept all the same: it is what there is to look at
				return fmt.Errorf("%w: %s", errChain, v.Fault)
			}
			_, err = fmt.Fprintf(s.err, "records %d to %d; note: %d:%s\n", v.Head.First, v.Head.Seq, v.Head.Seq, v.Head.Hash)
			return err
		},
	}
	c.Flags().BoolVar(&force, "force", false, "replace FILE when it exists")
	return c
}
