package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newRules(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "rules", Short: "See, check and change the rules that raise alerts", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newRulesCheck(s, &t), newRulesTest(s), newRulesApply(s, &t), newRulesList(s, &t), newRulesExport(s, &t), newRulesSwitch(s, &t, true),
		newRulesSwitch(s, &t, false), newRulesRemove(s, &t))
	return c
}

// ruleName is the name of the file of rules that a file of this machine becomes.
func ruleName(path string) string {
	base := filepath.Base(path)
	for _, ext := range []string{".yaml", ".yml", ".rules"} {
		base = strings.TrimSuffix(base, ext)
	}
	return strings.ToLower(base)
}

func newRulesCheck(s streams, t *target) *cobra.Command {
	c := &cobra.Command{Use: "check FILE...", Short: "Say what is wrong with files of rules", Args: cobra.MinimumNArgs(1)}
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		bad, warned := 0, false
		for _, path := range args {
			body, err := readDocument(path, s.in)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := cl.post(c.Context(), "/v1/rules/check", map[string]string{"name": ruleName(path), "body": string(body)}, &raw); err != nil {
				return err
			}
			if form.json() {
				if err := writeJSON(s.out, raw); err != nil {
					return err
				}
			}
			var answer struct {
				OK       bool           `json:"ok"`
				Rules    int            `json:"rules"`
				Kinds    map[string]int `json:"kinds"`
				Problems []struct {
					Line    int    `json:"line"`
					Message string `json:"message"`
				} `json:"problems"`
				Warnings []string `json:"warnings"`
			}
			if err := json.Unmarshal(raw, &answer); err != nil {
				return fmt.Errorf("answer of /v1/rules/check: %w", err)
			}
			if !answer.OK {
				bad++
			}
			warned = warned || len(answer.Warnings) > 0
			if form.json() {
				continue
			}
			for _, p := range answer.Problems {
				fmt.Fprintf(s.out, "%s:%d: %s\n", path, p.Line, printable(p.Message))
			}
			for _, w := range answer.Warnings {
				fmt.Fprintf(s.out, "%s: warning: %s\n", path, printable(w))
			}
			if answer.OK {
				fmt.Fprintf(s.out, "%s: %d rules%s, ok\n", path, answer.Rules, kindsText(answer.Kinds))
			}
		}
		if bad > 0 {
			return fmt.Errorf("%d of %d files cannot be used", bad, len(args))
		}
		if warned {
			return errWarnings
		}
		return nil
	})
}

// kindsText says how many rules are of which kind.
func kindsText(kinds map[string]int) string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		parts = append(parts, fmt.Sprintf("%d %s", kinds[kind], kind))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func newRulesApply(s streams, t *target) *cobra.Command {
	var name string
	c := &cobra.Command{Use: "apply FILE...", Short: "Add or replace files of rules; the name is that of the file without its ending", Args: cobra.MinimumNArgs(1)}
	c.Flags().StringVar(&name, "name", "", "name it so; for one file")
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := t.client()
		if err != nil {
			return err
		}
		if name != "" && len(args) > 1 {
			return fmt.Errorf("--name is for one file, %d were given", len(args))
		}
		warned := false
		for _, path := range args {
			body, err := readDocument(path, s.in)
			if err != nil {
				return err
			}
			as := ruleName(path)
			if name != "" {
				as = name
			}
			var answer struct {
				Version  uint64   `json:"version"`
				Warnings []string `json:"warnings"`
			}
			if err := cl.put(c.Context(), "/v1/rules/files/"+url.PathEscape(as), map[string]string{"body": string(body)}, &answer); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, w := range answer.Warnings {
				fmt.Fprintf(s.err, "%s: warning: %s\n", path, printable(w))
			}
			warned = warned || len(answer.Warnings) > 0
			fmt.Fprintf(s.out, "%s: applied as %s, version %d\n", path, as, answer.Version)
		}
		if warned {
			return errWarnings
		}
		return nil
	}
	return c
}

func newRulesList(s streams, t *target) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List rules and how each stands", Args: cobra.NoArgs}
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		var answer struct {
			Files []struct {
				Name    string `json:"name"`
				Origin  string `json:"origin"`
				Version uint64 `json:"version"`
				Error   string `json:"error"`
				Rules   []struct {
					Kind    string            `json:"kind"`
					Lang    string            `json:"language"`
					Name    string            `json:"name"`
					Expr    string            `json:"expr"`
					ForMs   int64             `json:"for_ms"`
					Labels  map[string]string `json:"labels"`
					Enabled bool              `json:"enabled"`
					State   string            `json:"state"`
					Alerts  int               `json:"alerts"`
					Error   string            `json:"error"`
				} `json:"rules"`
			} `json:"files"`
		}
		if shown, err := cl.show(c.Context(), s, form, "/v1/rules", nil, &answer); err != nil || shown {
			return err
		}
		tab := newTable(s.out, "file", "rule", "severity", "state", "alerts", "kind", "for", "condition")
		for _, f := range answer.Files {
			if f.Error != "" {
				tab.row(f.Name, "", "", "cannot be read", "", "", "", f.Error)
			}
			for _, r := range f.Rules {
				state, text := r.State, strings.Join(strings.Fields(r.Expr), " ")
				switch {
				case !r.Enabled && r.Kind != "record":
					state = "off"
				case r.Error != "":
					state, text = "error", r.Error
				}
				kind := r.Kind
				if kind == "record" && r.Lang == "logql" {
					kind = "record_logql"
				}
				if len(text) > 100 && r.Error == "" { // what is wrong is told in full
					text = text[:97] + "..."
				}
				tab.row(f.Name, r.Name, r.Labels["severity"], state, strconv.Itoa(r.Alerts), kind, (time.Duration(r.ForMs) * time.Millisecond).String(), text)
			}
		}
		return tab.flush()
	})
}

func newRulesExport(s streams, t *target) *cobra.Command {
	var dir string
	c := &cobra.Command{Use: "export [NAME...]", Short: "Write files of rules to standard output, or into a directory"}
	c.Flags().StringVar(&dir, "dir", "", "write NAME.yaml into this directory")
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := t.client()
		if err != nil {
			return err
		}
		if len(args) == 0 {
			var answer struct {
				Files []struct {
					Name string `json:"name"`
				} `json:"files"`
			}
			if err := cl.get(c.Context(), "/v1/rules", nil, &answer); err != nil {
				return err
			}
			for _, f := range answer.Files {
				args = append(args, f.Name)
			}
		}
		for _, name := range args {
			var file struct {
				Body string `json:"body"`
			}
			if err := cl.get(c.Context(), "/v1/rules/files/"+url.PathEscape(name), nil, &file); err != nil {
				return err
			}
			if dir == "" {
				if len(args) > 1 {
					fmt.Fprintf(s.out, "# file %s\n", name)
				}
				fmt.Fprint(s.out, file.Body)
				continue
			}
			path := filepath.Join(dir, filepath.Base(name)+".yaml")
			if err := os.WriteFile(path, []byte(file.Body), 0o644); err != nil {
				return fmt.Errorf("export %s: %w", name, err)
			}
			fmt.Fprintln(s.out, path)
		}
		return nil
	}
	return c
}

func newRulesSwitch(s streams, t *target, on bool) *cobra.Command {
	c := &cobra.Command{Use: "disable FILE [RULE...]", Short: "Turn off a file of rules, or single rules of it", Args: cobra.MinimumNArgs(1)}
	done := "off"
	if on {
		c.Use, c.Short, done = "enable FILE [RULE...]", "Turn on a file of rules, or single rules of it", "on"
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := t.client()
		if err != nil {
			return err
		}
		path := "/v1/rules/files/" + url.PathEscape(args[0])
		body := map[string]any{}
		if len(args) == 1 {
			body["enabled"] = on
		} else {
			var file struct {
				Off     []string `json:"off"`
				Version uint64   `json:"version"`
			}
			if err := cl.get(c.Context(), path, nil, &file); err != nil {
				return err
			}
			off := []string{}
			for _, name := range file.Off {
				if !slices.Contains(args[1:], name) {
					off = append(off, name)
				}
			}
			if !on {
				off = append(off, args[1:]...)
			}
			body["off"], body["version"] = off, file.Version
		}
		if err := cl.put(c.Context(), path, body, nil); err != nil {
			return err
		}
		_, err = fmt.Fprintln(s.out, strings.Join(args, " "), "is", done)
		return err
	}
	return c
}

func newRulesRemove(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "remove FILE", Short: "Remove a file of rules; its alerts end", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if err := cl.call(c.Context(), http.MethodDelete, "/v1/rules/files/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.out, args[0], "removed")
			return err
		},
	}
}

func newReceivers(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "receivers", Short: "Try whom alerts are told to", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	test := &cobra.Command{Use: "test NAME", Short: "Send a real message to every way of a receiver and show how each took it", Args: cobra.ExactArgs(1)}
	c.AddCommand(asking(s, &t, test, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		var raw json.RawMessage
		if err := cl.post(c.Context(), "/v1/receivers/test", map[string]string{"receiver": args[0]}, &raw); err != nil {
			return err
		}
		var answer struct {
			Results []struct {
				Integration string `json:"integration"`
				OK          bool   `json:"ok"`
				Error       string `json:"error"`
			} `json:"results"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return fmt.Errorf("answer of /v1/receivers/test: %w", err)
		}
		failed := 0
		tab := newTable(s.out, "way", "result")
		for _, r := range answer.Results {
			text := "taken"
			if !r.OK {
				failed++
				text = r.Error
			}
			tab.row(r.Integration, text)
		}
		if form.json() {
			if err := writeJSON(s.out, raw); err != nil {
				return err
			}
		} else if err := tab.flush(); err != nil {
			return err
		}
		if failed > 0 {
			return fmt.Errorf("%d of %d ways failed", failed, len(answer.Results))
		}
		return nil
	}))
	return c
}

func newRoutes(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "routes", Short: "See and change who is told of which alert", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	show := &cobra.Command{Use: "show", Short: "Print the document of routes and receivers; secrets are shown as <secret>", Args: cobra.NoArgs}
	test := &cobra.Command{Use: "test LABEL=VALUE...", Short: "Say which receivers would get an alert with the labels", Args: cobra.MinimumNArgs(1)}
	apply := &cobra.Command{
		Use: "apply FILE", Short: "Replace the document of routes and receivers; <secret> keeps a stored secret", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			body, err := readDocument(args[0], s.in)
			if err != nil {
				return err
			}
			var answer struct {
				Version uint64 `json:"version"`
			}
			if err := cl.put(c.Context(), "/v1/routes", map[string]string{"body": string(body)}, &answer); err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.out, "applied, version %d\n", answer.Version)
			return err
		},
	}
	c.AddCommand(asking(s, &t, show, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		var answer struct {
			Body string `json:"body"`
		}
		if shown, err := cl.show(c.Context(), s, form, "/v1/routes", nil, &answer); err != nil || shown {
			return err
		}
		_, err := fmt.Fprint(s.out, answer.Body)
		return err
	}), apply, asking(s, &t, test, testRoute(s)))
	return c
}

// testRoute asks where an alert with the labels of the arguments would go.
func testRoute(s streams) func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
	return func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		labels := make(map[string]string)
		for _, a := range args {
			name, v, ok := strings.Cut(a, "=")
			if !ok || name == "" {
				return fmt.Errorf("%q: want LABEL=VALUE", a)
			}
			labels[name] = v
		}
		var answer struct {
			Routes []struct {
				Route      string            `json:"route"`
				Receiver   string            `json:"receiver"`
				Group      map[string]string `json:"group_labels"`
				EscalateTo string            `json:"escalate_to"`
				EscalateMs int64             `json:"escalate_after_ms"`
			} `json:"routes"`
		}
		if shown, err := cl.showPost(c.Context(), s, form, "/v1/routes/test", map[string]any{"labels": labels}, &answer); err != nil || shown {
			return err
		}
		tab := newTable(s.out, "receiver", "group", "escalation", "route")
		for _, r := range answer.Routes {
			escalation := ""
			if r.EscalateTo != "" {
				escalation = fmt.Sprintf("%s after %s", r.EscalateTo, time.Duration(r.EscalateMs)*time.Millisecond)
			}
			tab.row(r.Receiver, labelText(r.Group), escalation, r.Route)
		}
		return tab.flush()
	}
}
