package cli

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// alertCommands are the commands about alerts, in the order in which help lists them.
func alertCommands(s streams) []*cobra.Command {
	return []*cobra.Command{newAlert(s), newSilence(s), newRules(s), newReceivers(s), newRoutes(s)}
}

// asking makes a command that asks the cluster; ask prints what it got.
func asking(s streams, t *target, c *cobra.Command, ask func(c *cobra.Command, cl *client, form *outputForm, args []string) error) *cobra.Command {
	var form outputForm
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := t.client()
		if err != nil {
			return err
		}
		return ask(c, cl, &form, args)
	}
	form.flag(c)
	return c
}

func stamp(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05")
}

func labelText(ls map[string]string, without ...string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(ls)) {
		if !slices.Contains(without, k) {
			list = append(list, k+"="+ls[k])
		}
	}
	return strings.Join(list, " ")
}

type alertAnswer struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Severity    string            `json:"severity"`
	State       string            `json:"state"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	ActiveAt    int64             `json:"active_at"`
	FiredAt     int64             `json:"fired_at"`
	Ack         *struct {
		By string `json:"by"`
	} `json:"ack"`
	Assigned *struct {
		To string `json:"to"`
	} `json:"assigned"`
}

func newAlert(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "alert", Short: "See alerts and take them in hand", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newAlertList(s, &t), newAlertAck(s, &t, true), newAlertAck(s, &t, false), newAlertAssign(s, &t),
		newAlertEscalate(s, &t), newAlertHistory(s, &t))
	return c
}

func newAlertList(s streams, t *target) *cobra.Command {
	var states, match string
	c := &cobra.Command{Use: "list", Short: "List alerts, the worst first", Args: cobra.NoArgs}
	c.Flags().StringVar(&states, "state", "", "comma-separated: pending, firing, acknowledged, silenced, inhibited, resolved")
	c.Flags().StringVar(&match, "match", "", `matchers such as {host="web1"}`)
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		q := url.Values{}
		if states != "" {
			q.Set("state", states)
		}
		if match != "" {
			q.Set("match", match)
		}
		var answer struct {
			Alerts []alertAnswer `json:"alerts"`
			More   bool          `json:"more"`
		}
		if shown, err := cl.show(c.Context(), s, form, "/v1/alerts", q, &answer); err != nil || shown {
			return err
		}
		tab := newTable(s.out, "id", "state", "severity", "alert", "since", "labels", "summary")
		for i := range answer.Alerts {
			a := &answer.Alerts[i]
			state := a.State
			if a.Ack != nil {
				state += " by " + a.Ack.By
			}
			if a.Assigned != nil {
				state += ", to " + a.Assigned.To
			}
			since := a.FiredAt
			if a.State == "pending" {
				since = a.ActiveAt
			}
			tab.row(a.ID, state, a.Severity, a.Name, stamp(since), labelText(a.Labels, "alertname", "severity"), a.Annotations["summary"])
		}
		if answer.More {
			fmt.Fprintln(s.err, "there are more; narrow the list with --match")
		}
		return tab.flush()
	})
}

func newAlertAck(s streams, t *target, ack bool) *cobra.Command {
	path, done := "/v1/alerts/ack", "acknowledged"
	c := &cobra.Command{Use: "ack ID...", Short: "Take alerts in hand: they are not repeated and not escalated", Args: cobra.MinimumNArgs(1)}
	var comment string
	if !ack {
		c.Use, c.Short, path, done = "unack ID...", "Give alerts back", "/v1/alerts/unack", "given back"
	} else {
		c.Flags().StringVar(&comment, "comment", "", "what is done about it")
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := t.client()
		if err != nil {
			return err
		}
		if err := cl.post(c.Context(), path, map[string]any{"alerts": args, "comment": comment}, nil); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%d %s\n", len(args), done)
		return err
	}
	return c
}

func newAlertHistory(s streams, t *target) *cobra.Command {
	var alert, what, match string
	var limit int
	var since time.Duration
	c := &cobra.Command{Use: "history", Short: "Show what happened to alerts and messages, newest first", Args: cobra.NoArgs}
	c.Flags().StringVar(&alert, "alert", "", "id of one alert")
	c.Flags().StringVar(&what, "what", "", "comma-separated: fired, resolved, acknowledged, escalated, sent, send_failed, send_lost, ...")
	c.Flags().StringVar(&match, "match", "", `matchers such as {host="web1"}`)
	c.Flags().IntVar(&limit, "limit", 50, "how many at most")
	c.Flags().DurationVar(&since, "since", 30*24*time.Hour, "how far back")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		q := url.Values{"limit": {strconv.Itoa(limit)}, "start": {"now-" + since.String()}}
		for name, v := range map[string]string{"alert": alert, "what": what, "match": match} {
			if v != "" {
				q.Set(name, v)
			}
		}
		var answer struct {
			Records []struct {
				T        int64             `json:"t"`
				What     string            `json:"what"`
				Labels   map[string]string `json:"labels"`
				By       string            `json:"by"`
				To       string            `json:"to"`
				Detail   string            `json:"detail"`
				Receiver string            `json:"receiver"`
				Rule     string            `json:"rule"`
				Count    int               `json:"count"`
			} `json:"records"`
		}
		if shown, err := cl.show(c.Context(), s, form, "/v1/alerts/history", q, &answer); err != nil || shown {
			return err
		}
		tab := newTable(s.out, "time", "what", "alert", "labels", "by or to", "detail")
		for _, r := range answer.Records {
			name, who := r.Labels["alertname"], r.By
			if name == "" {
				name = r.Rule
			}
			if r.Receiver != "" {
				who = r.Receiver
			}
			if r.To != "" {
				who += " to " + r.To
			}
			if r.Count > 0 {
				name = fmt.Sprintf("%d alert(s) %s", r.Count, name)
			}
			tab.row(stamp(r.T), r.What, name, labelText(r.Labels, "alertname"), who, r.Detail)
		}
		return tab.flush()
	})
}

func newSilence(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "silence", Short: "Keep receivers from being told, for a time", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newSilenceAdd(s, &t), newSilenceQuery(s, &t), newSilenceUpdate(s, &t), newSilenceExpire(s, &t))
	return c
}

func newSilenceAdd(s streams, t *target) *cobra.Command {
	var comment string
	var length time.Duration
	c := &cobra.Command{
		Use: "add MATCHER...", Short: `Add a silence; a matcher is such as host=web1 or host=~"web.*"`, Args: cobra.MinimumNArgs(1),
	}
	c.Flags().StringVar(&comment, "comment", "", "why")
	c.Flags().DurationVar(&length, "duration", time.Hour, "for how long")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		body := map[string]any{"matchers": args, "duration_s": int64(length.Seconds()), "comment": comment}
		var made struct {
			ID     string `json:"id"`
			EndsAt int64  `json:"ends_at"`
		}
		if shown, err := cl.showPost(c.Context(), s, form, "/v1/silences", body, &made); err != nil || shown {
			return err
		}
		fmt.Fprintln(s.out, made.ID)
		fmt.Fprintln(s.err, "until", stamp(made.EndsAt))
		return nil
	})
}

func newSilenceQuery(s streams, t *target) *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "query", Short: "List silences", Args: cobra.NoArgs}
	c.Flags().BoolVar(&all, "all", false, "also those that have ended")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		var answer struct {
			Silences []silenceAnswer `json:"silences"`
		}
		if shown, err := cl.show(c.Context(), s, form, "/v1/silences", nil, &answer); err != nil || shown {
			return err
		}
		tab := newTable(s.out, "id", "state", "matchers", "from", "until", "by", "alerts", "comment")
		for _, x := range answer.Silences {
			if x.State == "expired" && !all {
				continue
			}
			texts := make([]string, len(x.Matchers))
			for i := range x.Matchers {
				texts[i] = x.Matchers[i].text()
			}
			tab.row(x.ID, x.State, strings.Join(texts, " "), stamp(x.StartsAt), stamp(x.EndsAt), x.CreatedBy, strconv.Itoa(x.Alerts), x.Comment)
		}
		return tab.flush()
	})
}

type matcherAnswer struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	IsRegex bool   `json:"isRegex"`
	IsEqual bool   `json:"isEqual"`
}

func (m *matcherAnswer) text() string {
	op := map[[2]bool]string{{false, true}: "=", {false, false}: "!=", {true, true}: "=~", {true, false}: "!~"}[[2]bool{m.IsRegex, m.IsEqual}]
	return m.Name + op + strconv.Quote(m.Value)
}

func newSilenceExpire(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "expire ID...", Short: "End silences now", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := cl.call(c.Context(), http.MethodDelete, "/v1/silences/"+url.PathEscape(id), nil, nil); err != nil {
					return err
				}
				fmt.Fprintln(s.out, id, "ended")
			}
			return nil
		},
	}
}

// maxDocument bounds a file of rules or routes that is read; the cluster has its own bound.
const maxDocument = 1 << 20

func readDocument(path string, in io.Reader) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(in, maxDocument))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxDocument))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return body, nil
}
