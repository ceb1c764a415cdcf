package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/archive"
	"github.com/triward/triward/appliance/backup/schedule"
)

const archivePath = "/v1/logs/archive"

type archiveAnswer struct {
	archive.Overview
	Node   string         `json:"node"`
	Folder string         `json:"folder"`
	Rooms  []archive.Room `json:"rooms"`
}

func newLogsArchive(s streams, t *target) *cobra.Command {
	c := &cobra.Command{
		Use: "archive", Short: "Keep whole days of logs outside of the cluster", Args: cobra.NoArgs, RunE: needSubcommand,
		Long: `Whole days of logs and events are stored in a folder of a node or in an S3 bucket, as JSON lines compressed with zstd in
logs/AGENT/DATE/TYPE/FILE/, which anybody can read without Triward. ` + "`triward logs import`" + ` brings a day back to be searched.`,
	}
	c.AddCommand(newLogsArchiveShow(s, t), newLogsArchiveSet(s, t), newLogsArchiveOff(s, t), newLogsArchiveRun(s, t))
	return c
}

func newLogsArchiveShow(s streams, t *target) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "show", Short: "Show where logs are archived, and which days are", Args: cobra.NoArgs,
		Long: "Exit code 3: days were not archived when they should have been, or went by retention before.",
	}
	c.Flags().IntVar(&limit, "limit", 30, "how many days to list at most")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		var raw json.RawMessage
		if err := cl.get(c.Context(), archivePath, url.Values{"limit": {strconv.Itoa(limit)}}, &raw); err != nil {
			return err
		}
		var a archiveAnswer
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("answer of %s: %w", archivePath, err)
		}
		if form.json() {
			return errors.Join(writeJSON(s.out, raw), a.warn(s))
		}
		return errors.Join(a.print(s), a.warn(s))
	})
}

// warn says what an operator should look at.
func (a *archiveAnswer) warn(s streams) (bad error) {
	for i := range a.Days {
		if d := &a.Days[i]; d.Error != "" {
			fmt.Fprintf(s.err, "%s was not archived: %s\n", d.Date, printable(d.Error))
			bad = errWarnings
		}
	}
	for _, l := range a.Lost {
		fmt.Fprintf(s.err, "%s went by retention (%s) before it was archived as a whole\n", l.Date, l.Why)
		bad = errWarnings
	}
	return bad
}

func (a *archiveAnswer) print(s streams) error {
	p := a.Policy
	if p == nil {
		fmt.Fprintln(s.out, "logs are not archived; `triward logs archive set` says where they are to be")
	} else {
		to := p.Target.String()
		if p.Target.Kind == schedule.KindFolder {
			to = "folder " + a.Folder + " (as " + a.Node + " has it)"
		}
		state := "on"
		switch {
		case p.Paused != "":
			state = "off: " + p.Paused
		case !p.Enabled:
			state = "off, but by hand"
		}
		by, hold := p.Node, "no"
		if by == "" {
			by = "the leader"
		}
		if p.Hold {
			hold = fmt.Sprintf("up to %d days; a disk that fills up does not wait", p.HoldDays)
		}
		fmt.Fprintf(s.out, "archive           %s\nto                %s\nby                %s, %d h after the end of a day\nretention waits   %s\n", state, to, by, p.After, hold)
	}
	if c := a.Running; c != nil {
		fmt.Fprintf(s.out, "under way         %s on %s, %d of %d lines\n", c.Date, c.Node, c.Done, c.Total)
	}
	if len(a.Waiting) > 0 {
		fmt.Fprintf(s.out, "not archived      %s\n", strings.Join(a.Waiting[:min(len(a.Waiting), 10)], ", "))
	}
	if len(a.Days) == 0 {
		return nil
	}
	fmt.Fprintln(s.out)
	tab := newTable(s.out, "day", "state", "lines", "events", "stored", "agents", "by", "at", "to")
	for i := range a.Days {
		d := &a.Days[i]
		state := "archived"
		switch {
		case d.Error != "":
			state = "failed, again at " + stamp(d.Retry)
		case d.Plan != nil:
			state = "under way"
		case d.Tag != a.Tag:
			state = "of the cluster before its restore"
		}
		tab.row(d.Date, state, strconv.FormatInt(d.Totals.Logs.Lines, 10), strconv.FormatInt(d.Totals.Events.Lines, 10), bytesText(d.Stored),
			strconv.Itoa(d.Agents), d.Node, stamp(d.At), d.Target)
	}
	return tab.flush()
}

func newLogsArchiveSet(s streams, t *target) *cobra.Command {
	var place s3Flags
	var to, node string
	var after, hold int
	var off bool
	c := &cobra.Command{
		Use: "set --to folder|s3://BUCKET/PREFIX", Short: "Say where and when logs are archived", Args: cobra.NoArgs,
		Long: `Sets where whole days of logs and events are archived: "folder" is logs/ and days/ in backup.dir of the node that archives,
which is the leader unless --by names a node; name one when the nodes do not share that folder. The place is tried before
it is set.

Lines are stored as they are, not encrypted: so that they can be read without Triward for as long as they are kept.`,
		Example: "  triward logs archive set --to folder --by node1\n  triward logs archive set --to s3://logs/site1 --s3-endpoint https://s3.site1:9000 --hold 7",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			where, err := place.where(to)
			if err != nil {
				return err
			}
			if !off {
				if err := cl.post(c.Context(), archivePath+"/check", map[string]any{"target": where}, nil); err != nil {
					return err
				}
			}
			body := map[string]any{"enabled": !off, "target": where, "node": node, "after_h": after, "hold": hold > 0, "hold_days": hold}
			if err := cl.put(c.Context(), archivePath, body, nil); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "days of logs are archived to %s from now on; `triward logs archive show` says how that goes\n", where.String())
			return nil
		},
	}
	place.flags(c)
	c.Flags().StringVar(&to, "to", "", "folder, or s3://bucket/prefix")
	c.Flags().StringVar(&node, "by", "", "node that archives (the leader)")
	c.Flags().IntVar(&after, "after", 24, "hours from the end of a day until it is archived")
	c.Flags().IntVar(&hold, "hold", 0, "retention by age waits so many days for the archive; a disk that fills up does not")
	c.Flags().BoolVar(&off, "manual", false, "archive only what `logs archive run` asks for")
	_ = c.MarkFlagRequired("to")
	return c
}

func newLogsArchiveOff(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "off", Short: "Archive no more; what is archived stays", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			return cl.call(c.Context(), http.MethodDelete, archivePath, nil, nil)
		},
	}
}

func newLogsArchiveRun(s streams, t *target) *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: "run [DATE]", Short: "Archive a day now, or all that are over and wait", Args: cobra.MaximumNArgs(1),
		Example: "  triward logs archive run 2026-11-26",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var claim archive.Claim
			if err := cl.post(c.Context(), archivePath+"/run", map[string]string{"date": strings.Join(args, "")}, &claim); err != nil {
				return err
			}
			if !wait {
				fmt.Fprintf(s.out, "%s is being archived by node %s\n", claim.Date, claim.Node)
				return nil
			}
			return waitArchived(c.Context(), s, cl, claim, len(args) == 0)
		},
	}
	c.Flags().BoolVar(&wait, "wait", true, "wait until it is done")
	return c
}

// waitArchived waits until a day is archived, or with all no day waits any more, and says how that went.
func waitArchived(ctx context.Context, s streams, cl *client, began archive.Claim, all bool) error {
	for {
		if err := rest(ctx, 300*time.Millisecond); err != nil {
			return err
		}
		var a archiveAnswer
		if err := cl.get(ctx, archivePath, url.Values{"limit": {"2000"}}, &a); err != nil {
			return err
		}
		var failed error
		done := []string{}
		for i := range a.Days {
			switch d := &a.Days[i]; {
			case d.Date != began.Date && !all:
			case d.Error != "" && d.Plan == nil || d.Error != "" && a.Running == nil:
				failed = fmt.Errorf("%s was not archived: %s", d.Date, d.Error)
			case d.At >= began.Started:
				done = append(done, fmt.Sprintf("%s is archived: %d lines, %d events, %s", d.Date, d.Totals.Logs.Lines, d.Totals.Events.Lines, bytesText(d.Stored)))
			}
		}
		if a.Running != nil || failed == nil && (len(done) == 0 || all && len(a.Waiting) > 0) {
			continue
		}
		slices.Sort(done)
		for _, line := range done {
			fmt.Fprintln(s.out, line)
		}
		return failed
	}
}

func rest(ctx context.Context, d time.Duration) error {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		return nil
	}
}

func newLogsLs(s streams, t *target) *cobra.Command {
	var archived bool
	c := &cobra.Command{
		Use: "ls [PATH]", Short: "List agents, days, types and files of logs", Args: cobra.MaximumNArgs(1),
		Long: `Lists what lies below /logs, /logs/AGENT, /logs/AGENT/DATE or /logs/AGENT/DATE/TYPE: of what the cluster keeps, or with
--archive of what is archived. Names are printed as paths have them: %2F is a slash within a name.`,
		Example: "  triward logs ls\n  triward logs ls /logs/AGENT/2026-11-26/file\n  triward logs ls --archive",
	}
	c.Flags().BoolVar(&archived, "archive", false, "what is archived")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		q := url.Values{"of": {of(archived)}}
		if len(args) > 0 {
			q.Set("path", args[0])
		}
		var l archive.Listing
		if err := cl.get(c.Context(), "/v1/logs/tree", q, &l); err != nil {
			return err
		}
		if form.json() {
			return writeJSON(s.out, l)
		}
		tab := newTable(s.out, "path", "host", "lines", "size")
		for _, e := range l.Entries {
			lines, size := "", ""
			if archived {
				lines = strconv.FormatInt(e.Lines, 10)
			}
			if e.Bytes > 0 { // what came in the last minute is not counted
				size = bytesText(e.Bytes)
			}
			tab.row(e.Path, e.Host, lines, size)
		}
		if l.More {
			fmt.Fprintf(s.err, "... and more than the %d that are listed\n", len(l.Entries))
		}
		return tab.flush()
	})
}

func of(archived bool) string {
	if archived {
		return archive.OfArchive
	}
	return archive.OfStore
}

func newLogsCat(s streams, t *target) *cobra.Command {
	var archived, asJSON bool
	c := &cobra.Command{
		Use: "cat PATH", Short: "Print all lines of a file in the order of time", Args: cobra.ExactArgs(1),
		Long:    "Prints the lines of /logs/AGENT/DATE/TYPE/FILE, as `triward logs ls` has it: the bytes as they came, unless to a terminal.",
		Example: "  triward logs cat /logs/AGENT/2026-11-26/file/%2Fvar%2Flog%2Fsyslog > syslog",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			q := url.Values{"of": {of(archived)}, "path": {args[0]}}
			if asJSON {
				q.Set("form", "jsonl")
			}
			resp, err := cl.reach(c.Context(), http.MethodGet, "/v1/logs/cat?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what could not be read says less
				return newAPIError(resp, said)
			}
			if _, err := io.Copy(terminalSafe(s.out), resp.Body); err != nil {
				return fmt.Errorf("the answer was cut short, this is not all: %w", err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&archived, "archive", false, "of what is archived")
	c.Flags().BoolVar(&asJSON, "json", false, "rows as JSON, one a line, with labels and fields")
	return c
}

// safeWriter keeps what would move the cursor or colour the terminal from it.
type safeWriter struct{ w io.Writer }

// Write implements io.Writer.
func (s safeWriter) Write(p []byte) (int, error) {
	lines := strings.Split(string(p), "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	if _, err := io.WriteString(s.w, strings.Join(lines, "\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}

func terminalSafe(out io.Writer) io.Writer {
	f, ok := out.(*os.File)
	if !ok {
		return out
	}
	if st, err := f.Stat(); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return out
	}
	return safeWriter{out}
}

func newLogsImport(s streams, t *target) *cobra.Command {
	var days int
	var tag string
	var wait bool
	c := &cobra.Command{
		Use: "import AGENT/DATE|DATE", Short: "Bring an archived day back to a node to be searched", Args: cobra.ExactArgs(1),
		Long: `Brings what is archived of an agent and a day, or of a whole day, back to the node that is asked, beside what the
cluster keeps: it is searched with ` + "`triward logs query --archive ID`" + `, is in no backup, and goes again after some days or when
the disk fills up. The archive keeps it.`,
		Example: "  triward logs import 0b3c7f10/2026-05-01\n  triward logs import list",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var room archive.Room
			body := map[string]any{"from": args[0], "tag": tag, "days": days}
			if err := cl.post(c.Context(), archivePath+"/imports", body, &room); err != nil {
				return err
			}
			fmt.Fprintf(s.err, "%d lines come back to node %s as %s\n", room.Lines, room.Node, room.ID)
			for wait && room.State == archive.RoomImporting {
				if err := rest(c.Context(), 500*time.Millisecond); err != nil {
					return err
				}
				all, err := everyRoom(c.Context(), cl)
				if err != nil {
					return err
				}
				i := slices.IndexFunc(all, func(r archive.Room) bool { return r.ID == room.ID && r.Node == room.Node })
				if i < 0 {
					return fmt.Errorf("%s is gone", room.ID)
				}
				room = all[i]
			}
			if room.State == archive.RoomFailed {
				return fmt.Errorf("%s did not come back: %s", room.ID, room.Error)
			}
			_, err = fmt.Fprintln(s.out, room.ID)
			return err
		},
	}
	c.Flags().IntVar(&days, "days", 7, "how long it stays")
	c.Flags().StringVar(&tag, "tag", "", "cluster whose archive it is, where several share a place")
	c.Flags().BoolVar(&wait, "wait", true, "wait until it is there")
	c.AddCommand(newLogsImportList(s, t), newLogsImportRemove(s, t))
	return c
}

// roomsAt are the rooms of one node.
func roomsAt(ctx context.Context, cl *client, base string) ([]archive.Room, error) {
	one := *cl
	one.urls = []string{base}
	var a struct {
		Rooms []archive.Room `json:"rooms"`
	}
	err := one.call(ctx, http.MethodGet, archivePath+"/imports", nil, &a)
	return a.Rooms, err
}

// everyRoom asks all nodes that are known; it fails when none answers.
func everyRoom(ctx context.Context, cl *client) (all []archive.Room, err error) {
	var errs []error
	for _, base := range cl.urls {
		rooms, err := roomsAt(ctx, cl, base)
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, rooms...)
	}
	if len(errs) == len(cl.urls) {
		return nil, errors.Join(errs...)
	}
	return all, nil
}

// toRoom makes the client ask the node that has the room, if any does.
func toRoom(ctx context.Context, cl *client, id string) (archive.Room, error) {
	var errs []error
	for _, base := range cl.urls {
		rooms, err := roomsAt(ctx, cl, base)
		if i := slices.IndexFunc(rooms, func(r archive.Room) bool { return r.ID == id }); i >= 0 {
			cl.urls = []string{base}
			return rooms[i], nil
		}
		errs = append(errs, err)
	}
	return archive.Room{}, errors.Join(append(errs, fmt.Errorf("no node that answers has %s; `triward logs import list` tells what there is", printable(id)))...)
}

func newLogsImportList(s streams, t *target) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the days that were brought back, of all nodes that are known", Args: cobra.NoArgs}
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		all, err := everyRoom(c.Context(), cl)
		if err != nil {
			return err
		}
		if form.json() {
			if all == nil {
				all = []archive.Room{}
			}
			return writeJSON(s.out, all)
		}
		tab := newTable(s.out, "id", "node", "day", "agent", "host", "state", "lines", "size", "until", "by")
		for _, r := range all {
			agent, state := r.Agent, r.State
			if r.All {
				agent = "all"
			}
			if r.State == archive.RoomImporting {
				state = fmt.Sprintf("%d of %d lines", r.Done, r.Lines)
			}
			if r.Error != "" {
				state += ": " + r.Error
			}
			tab.row(r.ID, r.Node, r.Date, agent, r.Host, state, strconv.FormatInt(r.Lines, 10), bytesText(r.Bytes), stamp(r.Expires), r.By)
		}
		return tab.flush()
	})
}

func newLogsImportRemove(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "Remove a day that was brought back; the archive keeps it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if _, err := toRoom(c.Context(), cl, args[0]); err != nil {
				return err
			}
			return cl.call(c.Context(), http.MethodDelete, archivePath+"/imports/"+url.PathEscape(args[0]), nil, nil)
		},
	}
}

// askRoom makes a question one about the lines of a room, of its whole day unless the flags say another time.
func askRoom(c *cobra.Command, cl *client, id string, q url.Values) error {
	room, err := toRoom(c.Context(), cl, id)
	if err != nil {
		return err
	}
	q.Set("archive", id)
	from, err := time.Parse(time.DateOnly, room.Date)
	if err != nil {
		return fmt.Errorf("date of %s: %w", printable(id), err)
	}
	if !c.Flags().Changed("start") {
		q.Set("start", strconv.FormatInt(from.UnixNano(), 10))
	}
	if !c.Flags().Changed("end") {
		q.Set("end", strconv.FormatInt(from.AddDate(0, 0, 1).UnixNano(), 10))
	}
	return nil
}
