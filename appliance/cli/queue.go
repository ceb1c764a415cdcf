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
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type queueLag struct {
	Topic   string  `json:"topic"`
	Entries uint64  `json:"entries"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

type queueConsumer struct {
	Name        string     `json:"name"`
	Topics      []string   `json:"topics"`
	Agent       string     `json:"agent"`
	Position    string     `json:"position"`
	TimeMs      int64      `json:"time_ms"`
	CreatedMs   int64      `json:"created_ms"`
	CreatedBy   string     `json:"created_by"`
	CommittedMs int64      `json:"committed_ms"`
	CommittedBy string     `json:"committed_by"`
	Token       uint64     `json:"token"`
	Owner       string     `json:"owner"`
	UntilMs     int64      `json:"lease_until_ms"`
	Elsewhere   bool       `json:"elsewhere"`
	Lag         []queueLag `json:"lag"`
	Gap         uint64     `json:"gap_entries"`
	Notes       []string   `json:"notes"`
}

type queueAnswer struct {
	FirstIndex    uint64 `json:"first_index"`
	LastIndex     uint64 `json:"last_index"`
	CommitIndex   uint64 `json:"commit_index"`
	AppliedIndex  uint64 `json:"applied_index"`
	Bytes         int64  `json:"bytes"`
	Segments      int    `json:"segments"`
	InFlightBytes int64  `json:"in_flight_bytes"`
	LogTimeMs     int64  `json:"log_time_ms"`
	Topics        []struct {
		Name      string   `json:"name"`
		Entries   uint64   `json:"entries"`
		PerSecond float64  `json:"per_second"`
		Aliases   []string `json:"aliases"`
		Note      string   `json:"note"`
	} `json:"topics"`
	Consumers []queueConsumer `json:"consumers"`
	Retention struct {
		Bytes       int64  `json:"bytes"`
		AgeS        int64  `json:"age_s"`
		HeldBytes   int64  `json:"held_bytes"`
		HeldEntries uint64 `json:"held_entries"`
		SinceMs     int64  `json:"since_ms"`
	} `json:"retention"`
}

func newQueue(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "queue", Short: "Look at the durable queue, which is the Raft log, and at its consumers", Args: cobra.NoArgs, RunE: needSubcommand,
	}
	t.flags(c)
	c.AddCommand(newQueueStatus(s, &t), newQueueLag(s, &t), newQueuePeek(s, &t), newQueueConsume(s, &t), newQueueReplay(s, &t), newQueueConsumer(s, &t))
	return c
}

func newQueueStatus(s streams, t *target) *cobra.Command {
	var form outputForm
	var names bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what the queue holds, for how long, and how far the node asked has applied it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var q queueAnswer
			if shown, err := cl.show(c.Context(), s, &form, "/v1/queue", nil, &q); err != nil || shown {
				return err
			}
			return q.print(s.out, names)
		},
	}
	form.flag(c)
	c.Flags().BoolVar(&names, "names", false, "also list the other names of the topics")
	return c
}

func (q *queueAnswer) print(out io.Writer, names bool) error {
	fmt.Fprintf(out, "entries    %d to %d, committed %d, applied %d\n", q.FirstIndex, q.LastIndex, q.CommitIndex, q.AppliedIndex)
	fmt.Fprintf(out, "on disk    %s in %d segments\n", bytesText(q.Bytes), q.Segments)
	age := "any age"
	if q.Retention.AgeS > 0 {
		age = "at most " + (time.Duration(q.Retention.AgeS) * time.Second).String() + " old"
	}
	fmt.Fprintf(out, "retention  %s and %s\n", bytesText(q.Retention.Bytes), age)
	since := ""
	if q.Retention.SinceMs > 0 {
		since = " since " + time.UnixMilli(q.Retention.SinceMs).UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(out, "held       %s, %d entries%s\n", bytesText(q.Retention.HeldBytes), q.Retention.HeldEntries, since)
	fmt.Fprintf(out, "in flight  %s\n\n", bytesText(q.InFlightBytes))
	tab := newTable(out, "topic", "items held", "per second")
	for _, topic := range q.Topics {
		tab.row(topic.Name, strconv.FormatUint(topic.Entries, 10), fmt.Sprintf("%.1f", topic.PerSecond))
	}
	if err := tab.flush(); err != nil {
		return err
	}
	if names {
		fmt.Fprintln(out)
		for _, topic := range q.Topics {
			fmt.Fprintf(out, "%s is also called %s\n", topic.Name, strings.Join(topic.Aliases, ", "))
		}
		if len(q.Topics) > 0 {
			fmt.Fprintln(out, q.Topics[0].Note)
		}
	}
	if len(q.Consumers) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return printLag(out, q.Consumers)
}

func printLag(out io.Writer, consumers []queueConsumer) error {
	tab := newTable(out, "consumer", "topic", "position", "entries behind", "bytes", "seconds", "read by")
	for i := range consumers {
		c := &consumers[i]
		for _, l := range c.Lag {
			entries := strconv.FormatUint(l.Entries, 10)
			if c.Gap > 0 {
				entries += fmt.Sprintf(" (%d gone)", c.Gap)
			}
			tab.row(c.Name, l.Topic, c.Position, entries, bytesText(l.Bytes), fmt.Sprintf("%.1f", l.Seconds), c.Owner)
		}
	}
	return tab.flush()
}

func newQueueLag(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "lag [CONSUMER]", Short: "Show how far consumers are behind, by topic", Args: cobra.MaximumNArgs(1),
		Long: "Show how far consumers are behind, by topic: entries of the log from the cursor to the newest with a message of the\ntopic, the bytes these take, and how long ago the first message came that was not committed.",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var list []queueConsumer
			if len(args) == 1 {
				var one queueConsumer
				if err := cl.get(c.Context(), "/v1/queue/consumers/"+url.PathEscape(args[0]), nil, &one); err != nil {
					return err
				}
				list = append(list, one)
			} else if list, err = queueConsumers(c.Context(), cl); err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, list)
			}
			return printLag(s.out, list)
		},
	}
	form.flag(c)
	return c
}

func queueConsumers(ctx context.Context, cl *client) ([]queueConsumer, error) {
	var a struct {
		Consumers []queueConsumer `json:"consumers"`
	}
	err := cl.get(ctx, "/v1/queue/consumers", nil, &a)
	return a.Consumers, err
}

// queueGap is what a consumer cannot be given any more.
type queueGap struct {
	From string `json:"from"`
	To   uint64 `json:"to"`
	Next string `json:"next"`
}

type queuePage struct {
	Items []json.RawMessage `json:"items"`
	Next  string            `json:"next"`
	More  bool              `json:"more"`
}

func newQueuePeek(s streams, t *target) *cobra.Command {
	var from, agent string
	var topics []string
	var limit int
	c := &cobra.Command{
		Use:     "peek",
		Short:   "Print messages of the queue, one JSON object a line; no cursor moves",
		Example: "  triward queue peek --topic events\n  triward queue peek --from 2026-01-02T15:04:05Z --topic logs --agent web1 --limit 20",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			for limit > 0 {
				var p queuePage
				q := url.Values{"topic": {strings.Join(topics, ",")}, "agent": {agent}, "limit": {strconv.Itoa(min(limit, 1000))}}
				if from != "" {
					q.Set("from", from)
				}
				if err := cl.get(c.Context(), "/v1/queue/peek", q, &p); err != nil {
					return err
				}
				if err := printMessages(s.out, p.Items); err != nil {
					return err
				}
				if limit -= len(p.Items); !p.More {
					return nil
				}
				from = p.Next
			}
			return nil
		},
	}
	c.Flags().StringVar(&from, "from", "", "beginning, end, a position INDEX.ITEM, or a time as 2026-01-02T15:04:05Z (the newest 1000 entries)")
	c.Flags().StringSliceVar(&topics, "topic", nil, "only of these topics: metrics, logs, events, alerts, or their other names")
	c.Flags().StringVar(&agent, "agent", "", "only of this agent: its id, its host, or the name that the sender has for itself")
	c.Flags().IntVar(&limit, "limit", 100, "most messages to print")
	return c
}

func printMessages(out io.Writer, items []json.RawMessage) error {
	for _, m := range items {
		if _, err := fmt.Fprintf(out, "%s\n", m); err != nil {
			return err
		}
	}
	return nil
}

func newQueueConsume(s streams, t *target) *cobra.Command {
	var follow, force, keep, skip, skipSilent bool
	var owner string
	var limit int
	c := &cobra.Command{
		Use:   "consume CONSUMER",
		Short: "Read as a consumer: print its messages, one JSON object a line, and commit each page once it is written",
		Long: "Read as a consumer: print its messages, one JSON object a line, and commit each page once it is written. A page whose\n" +
			"commit did not come through is printed again by the next start: index and item tell a message for good.",
		Example: "  triward queue consume mirror --follow >> mirror.ndjson",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if owner == "" {
				host, _ := os.Hostname()
				owner = fmt.Sprintf("%s:%d", host, os.Getpid())
			}
			r := &consuming{cl: cl, out: s.out, errs: s.err, path: "/v1/queue/consumers/" + url.PathEscape(args[0]), owner: owner, keep: keep, skip: skip, skipSilent: skipSilent}
			if err := r.open(c.Context(), force); err != nil {
				return err
			}
			return errors.Join(r.run(c.Context(), follow, limit), r.release())
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more at the end")
	c.Flags().BoolVar(&force, "force", false, "take the consumer from another reader whose lease stands")
	c.Flags().BoolVar(&keep, "keep", false, "do not commit: the next start prints the same again")
	c.Flags().BoolVar(&skip, "skip-gap", false, "go on behind entries that the log was not retained long enough for")
	c.Flags().BoolVar(&skipSilent, "skip-silent", false, "with --skip-gap, also what members that do not answer may still hold: it is lost for this consumer")
	c.Flags().StringVar(&owner, "owner", "", "name of this reader; host and process id when not given")
	c.Flags().IntVar(&limit, "limit", 0, "end after about this many messages; 0 for no limit")
	return c
}

// consuming is a reader of one consumer.
type consuming struct {
	cl          *client
	out, errs   io.Writer
	path, owner string
	keep, skip  bool
	skipSilent  bool
	token       uint64
	next        string
	committed   string
	at          time.Time
}

func (r *consuming) open(ctx context.Context, force bool) error {
	var c queueConsumer
	if err := r.cl.post(ctx, r.path+"/open", map[string]any{"owner": r.owner, "force": force}, &c); err != nil {
		return err
	}
	r.token, r.next, r.committed, r.at = c.Token, c.Position, c.Position, time.Now()
	return nil
}

// release lets others read as the consumer at once.
func (r *consuming) release() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := r.cl.post(ctx, r.path+"/commit", map[string]any{"token": r.token, "position": r.committed, "release": true}, nil)
	var refused *apiError
	if errors.As(err, &refused) && refused.Code == "fenced" { // somebody does already
		return nil
	}
	return err
}

// consumeKeep is how often a reader that has nothing to do commits all the same: it keeps its lease, and its cursor does
// not fall behind retention over entries of other topics.
const consumeKeep = 30 * time.Second

func (r *consuming) run(ctx context.Context, follow bool, limit int) error {
	printed := 0
	for ctx.Err() == nil {
		var p queuePage
		q := url.Values{"from": {r.next}, "token": {strconv.FormatUint(r.token, 10)}}
		if limit > 0 {
			q.Set("max", strconv.Itoa(min(10_000, limit-printed)))
		}
		if follow {
			q.Set("wait", "10s")
		}
		err := r.cl.get(ctx, r.path+"/read", q, &p)
		next, ok, silent := r.gap(err)
		if ok {
			r.next = next
			continue
		}
		if silent != nil && follow {
			fmt.Fprintf(r.errs, "triward: %v; trying again\n", silent)
			if !pauseFor(ctx, silentPause) {
				break
			}
			continue
		}
		if silent != nil {
			return silent
		}
		if err == nil {
			err = r.take(ctx, &p, follow)
		}
		var refused *apiError
		if err != nil && ctx.Err() == nil && follow && !(errors.As(err, &refused) && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusTooManyRequests) {
			fmt.Fprintf(r.errs, "triward: %v; trying again\n", err)
			if !pauseFor(ctx, time.Second) {
				break
			}
			continue
		}
		if err != nil {
			return err
		}
		printed += len(p.Items)
		if !p.More && !follow || limit > 0 && printed >= limit {
			return nil
		}
	}
	return ctx.Err()
}

// take writes a page and commits it.
func (r *consuming) take(ctx context.Context, p *queuePage, follow bool) error {
	if err := printMessages(r.out, p.Items); err != nil {
		return err
	}
	r.next = p.Next
	idle := len(p.Items) == 0 && (follow && time.Since(r.at) < consumeKeep || r.next == r.committed)
	if r.keep || idle {
		return nil
	}
	for {
		err := r.cl.post(ctx, r.path+"/commit", map[string]any{"token": r.token, "position": r.next}, nil)
		var refused *apiError
		if err == nil || ctx.Err() != nil || errors.As(err, &refused) && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusTooManyRequests {
			r.committed, r.at = r.next, time.Now()
			return err
		}
		if !follow {
			return err
		}
		fmt.Fprintf(r.errs, "triward: %v; trying again\n", err)
		if !pauseFor(ctx, time.Second) {
			return ctx.Err()
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// silentPause is how long a reader waits for members that may hold what it is to skip.
const silentPause = 5 * time.Second

// gap returns where to go on when err says that entries are gone and they are to be skipped. silent says that they are not
// to be skipped yet, because members that do not answer may hold them.
func (r *consuming) gap(err error) (next string, ok bool, silent error) {
	var refused *apiError
	if !r.skip || !errors.As(err, &refused) || refused.Gap == nil {
		return "", false, nil
	}
	if len(refused.Silent) > 0 && !r.skipSilent {
		return "", false, fmt.Errorf("entries %s to %d are not skipped: %s may still hold them and cannot be asked now; wait for it, or say --skip-silent to lose them",
			refused.Gap.From, refused.Gap.To, strings.Join(refused.Silent, ", "))
	}
	fmt.Fprintf(r.errs, "triward: entries %s to %d are gone and are skipped\n", refused.Gap.From, refused.Gap.To)
	return refused.Gap.Next, true, nil
}

func newQueueReplay(s streams, t *target) *cobra.Command {
	var from string
	var yes bool
	c := &cobra.Command{
		Use:     "replay CONSUMER --from WHERE",
		Short:   "Put a consumer's cursor back or ahead; nothing is stored again",
		Example: "  triward queue replay mirror --from 2026-01-02T15:04:05Z --yes\n  triward queue replay mirror --from beginning --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if from == "" {
				return errors.New("--from is missing: want beginning, end, a position INDEX.ITEM, or a time as 2026-01-02T15:04:05Z")
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			path := "/v1/queue/consumers/" + url.PathEscape(args[0])
			var before, after queueConsumer
			if err := cl.get(c.Context(), path, nil, &before); err != nil {
				return err
			}
			if !yes {
				return fmt.Errorf("consumer %s stands at %s and is read by %q: its reader will be refused and must open it again; say --yes to do it", before.Name, before.Position, before.Owner)
			}
			if err := cl.post(c.Context(), path+"/replay", map[string]any{"from": from}, &after); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "consumer %s stood at %s and stands at %s now\n", after.Name, before.Position, after.Position)
			return nil
		},
	}
	c.Flags().StringVar(&from, "from", "", "beginning, end, a position INDEX.ITEM, or a time as 2026-01-02T15:04:05Z")
	c.Flags().BoolVar(&yes, "yes", false, "do it: whoever reads as the consumer is refused from then on")
	return c
}

func newQueueConsumer(s streams, t *target) *cobra.Command {
	c := &cobra.Command{Use: "consumer", Short: "Make, list, show and delete consumers", Args: cobra.NoArgs, RunE: needSubcommand}
	c.AddCommand(newConsumerCreate(s, t), newConsumerList(s, t), newConsumerShow(s, t), newConsumerDelete(s, t))
	return c
}

func newConsumerCreate(s streams, t *target) *cobra.Command {
	var topics []string
	var agent, from string
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a consumer", Args: cobra.ExactArgs(1),
		Example: "  triward queue consumer create mirror --topic logs,events --from beginning",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var made queueConsumer
			body := map[string]any{"name": args[0], "topics": topics, "agent": agent, "from": from}
			if err := cl.post(c.Context(), "/v1/queue/consumers", body, &made); err != nil {
				return err
			}
			for _, n := range made.Notes {
				fmt.Fprintln(s.err, "note:", n)
			}
			fmt.Fprintf(s.out, "consumer %s of %s begins at %s\n", made.Name, strings.Join(made.Topics, ", "), made.Position)
			return nil
		},
	}
	c.Flags().StringSliceVar(&topics, "topic", nil, "topics: metrics, logs, events, alerts, or their other names (all)")
	c.Flags().StringVar(&agent, "agent", "", "only of this agent: its id, its host, or the name that the sender has for itself")
	c.Flags().StringVar(&from, "from", "end", "beginning, end, a position INDEX.ITEM, or a time as 2026-01-02T15:04:05Z")
	return c
}

func newConsumerList(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "list", Short: "List consumers", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			list, err := queueConsumers(c.Context(), cl)
			if err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, list)
			}
			tab := newTable(s.out, "consumer", "topics", "position", "committed", "read by")
			for i := range list {
				x := &list[i]
				tab.row(x.Name, strings.Join(x.Topics, ","), x.Position, msText(x.CommittedMs), x.Owner)
			}
			return tab.flush()
		},
	}
	form.flag(c)
	return c
}

func msText(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}

func newConsumerShow(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "show NAME", Short: "Show a consumer", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var x queueConsumer
			if err := cl.get(c.Context(), "/v1/queue/consumers/"+url.PathEscape(args[0]), nil, &x); err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, x)
			}
			fmt.Fprintf(s.out, "consumer   %s of %s\n", x.Name, strings.Join(x.Topics, ", "))
			if x.Agent != "" {
				fmt.Fprintf(s.out, "agent      %s\n", x.Agent)
			}
			fmt.Fprintf(s.out, "position   %s, of %s\n", x.Position, msText(x.TimeMs))
			fmt.Fprintf(s.out, "created    %s by %s\n", msText(x.CreatedMs), x.CreatedBy)
			fmt.Fprintf(s.out, "committed  %s by %s\n", msText(x.CommittedMs), x.CommittedBy)
			if x.Owner != "" {
				fmt.Fprintf(s.out, "read by    %s, lease until %s\n", x.Owner, msText(x.UntilMs))
			}
			fmt.Fprintln(s.out)
			return printLag(s.out, []queueConsumer{x})
		},
	}
	form.flag(c)
	return c
}

func newConsumerDelete(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a consumer; what it reads is not touched", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if err := cl.call(c.Context(), http.MethodDelete, "/v1/queue/consumers/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "consumer %s is deleted\n", args[0])
			return nil
		},
	}
}
