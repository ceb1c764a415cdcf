package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

func newAlertAssign(s streams, t *target) *cobra.Command {
	var comment string
	var none bool
	c := &cobra.Command{
		Use: "assign ID... USER", Short: "Say who is to look after alerts (with --none: nobody)",
		Long: `Says who is to look after alerts that fire; messages name them. Until somebody acknowledges an alert it is
repeated and escalates all the same. With --none all arguments are alerts, and nobody looks after them any more.`,
		Args: cobra.MinimumNArgs(1),
	}
	c.Flags().StringVar(&comment, "comment", "", "why")
	c.Flags().BoolVar(&none, "none", false, "take the assignment back")
	c.RunE = func(c *cobra.Command, args []string) error {
		ids, to := args, ""
		if !none {
			if len(args) < 2 {
				return errors.New("assign wants at least one alert and the name of a user; `triward alert list` shows the alerts")
			}
			ids, to = args[:len(args)-1], args[len(args)-1]
		}
		cl, err := t.client()
		if err != nil {
			return err
		}
		if err := cl.post(c.Context(), "/v1/alerts/assign", map[string]any{"alerts": ids, "to": to, "comment": comment}, nil); err != nil {
			return err
		}
		done := "assigned to " + to
		if none {
			done = "assigned to nobody"
		}
		_, err = fmt.Fprintf(s.out, "%d %s\n", len(ids), done)
		return err
	}
	return c
}

func newAlertEscalate(s streams, t *target) *cobra.Command {
	var comment string
	c := &cobra.Command{Use: "escalate ID...", Short: "Let the second receiver be told now, as the route of the alert says", Args: cobra.MinimumNArgs(1)}
	c.Flags().StringVar(&comment, "comment", "", "why")
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := t.client()
		if err != nil {
			return err
		}
		if err := cl.post(c.Context(), "/v1/alerts/escalate", map[string]any{"alerts": args, "comment": comment}, nil); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%d escalated\n", len(args))
		return err
	}
	return c
}

// silenceAnswer is a silence as GET /v1/silences lists it.
type silenceAnswer struct {
	ID        string          `json:"id"`
	State     string          `json:"state"`
	Matchers  []matcherAnswer `json:"matchers"`
	StartsAt  int64           `json:"starts_at"`
	EndsAt    int64           `json:"ends_at"`
	CreatedBy string          `json:"created_by"`
	Comment   string          `json:"comment"`
	Alerts    int             `json:"alerts"`
}

func newSilenceUpdate(s streams, t *target) *cobra.Command {
	var comment string
	var length time.Duration
	c := &cobra.Command{
		Use: "update ID [MATCHER...]", Short: "Change a silence that has not ended: its matchers, how long from now, its comment",
		Long: `Changes what is given and leaves the rest as it is. Matchers replace all that the silence has; --duration counts
from now.`,
		Args: cobra.MinimumNArgs(1),
	}
	c.Flags().StringVar(&comment, "comment", "", "why")
	c.Flags().DurationVar(&length, "duration", 0, "for how long from now")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 && !c.Flags().Changed("comment") && !c.Flags().Changed("duration") {
			return errors.New("nothing to change: give matchers, --duration or --comment")
		}
		cl, err := t.client()
		if err != nil {
			return err
		}
		var answer struct {
			Silences []silenceAnswer `json:"silences"`
		}
		if err := cl.get(c.Context(), "/v1/silences", nil, &answer); err != nil {
			return err
		}
		at := slices.IndexFunc(answer.Silences, func(x silenceAnswer) bool { return x.ID == args[0] })
		if at < 0 {
			return fmt.Errorf("there is no silence %s; `triward silence query --all` lists them", args[0])
		}
		have := &answer.Silences[at]
		body := map[string]any{"matchers": args[1:], "starts_at": have.StartsAt, "comment": have.Comment}
		if len(args) == 1 {
			texts := make([]string, len(have.Matchers))
			for i := range have.Matchers {
				texts[i] = have.Matchers[i].text()
			}
			body["matchers"] = texts
		}
		if c.Flags().Changed("comment") {
			body["comment"] = comment
		}
		if length > 0 {
			body["duration_s"] = int64(length.Seconds())
		} else {
			body["ends_at"] = have.EndsAt
		}
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode silence: %w", err)
		}
		var made silenceAnswer
		if err := cl.call(c.Context(), http.MethodPut, "/v1/silences/"+url.PathEscape(args[0]), text, &made); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s until %s\n", made.ID, stamp(made.EndsAt))
		return err
	}
	return c
}
