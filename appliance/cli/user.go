package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type userAnswer struct {
	Name        string `json:"name"`
	Role        string `json:"role"`
	Created     int64  `json:"created"`
	Disabled    bool   `json:"disabled"`
	Sessions    int    `json:"sessions"`
	NoPassword  bool   `json:"no_password"`
	LinkExpires int64  `json:"link_expires"`
}

// state is in a word whether the user can log in.
func (u *userAnswer) state() string {
	switch {
	case u.Disabled:
		return "disabled"
	case u.NoPassword && u.LinkExpires > 0:
		return "invited until " + timeText(u.LinkExpires)
	case u.NoPassword:
		return "no password, link expired"
	case u.LinkExpires > 0:
		return "active, link until " + timeText(u.LinkExpires)
	}
	return "active"
}

// accessCommands are users, roles, sessions, tokens and the audit log.
func accessCommands(s streams) []*cobra.Command {
	return []*cobra.Command{newUser(s), newRole(s), newSession(s), newToken(s), newAudit(s)}
}

func newUser(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "user", Short: "People who log in", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(
		newUserList(s, &t), newUserCreate(s, &t), newUserInvite(s, &t), newUserPassword(s, &t), newUserRole(s, &t),
		newUserDisable(s, &t, true), newUserDisable(s, &t, false), newUserDelete(s, &t),
	)
	return c
}

// ask gets path and decodes the answer into v, or prints it as JSON when that is wanted; shown is true then.
func ask(c *cobra.Command, s streams, t *target, form *outputForm, path string, q url.Values, v any) (shown bool, err error) {
	cl, err := t.client()
	if err != nil {
		return false, err
	}
	return cl.show(c.Context(), s, form, path, q, v)
}

func newUserList(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "list", Short: "List the users", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var answer struct {
				Users []userAnswer `json:"users"`
			}
			if shown, err := ask(c, s, t, &form, "/v1/users", nil, &answer); err != nil || shown {
				return err
			}
			tab := newTable(s.out, "user", "role", "state", "sessions", "created")
			for _, u := range answer.Users {
				tab.row(u.Name, u.Role, u.state(), fmt.Sprint(u.Sessions), timeText(u.Created))
			}
			return tab.flush()
		},
	}
	form.flag(c)
	return c
}

func roleFlag(c *cobra.Command, role *string, def, usage string, roles ...string) {
	c.Flags().StringVar(role, "role", def, usage)
	_ = c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles, cobra.ShellCompDirectiveNoFileComp))
}

const personRoles = "viewer, operator, administrator or auditor"

func newUserCreate(s streams, t *target) *cobra.Command {
	var role string
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Add a user with a password, which is asked for",
		Long: `Asks for the password twice; without a terminal it is the first line of standard input. To have the user choose it
themselves, use ` + "`triward user invite`" + `.`,
		Example: "  triward user create ada --role operator\n  triward user create ada --role operator <password-file",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			password, err := newSecretFrom(s, "Password: ")
			if err != nil {
				return err
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			if err := cl.post(c.Context(), "/v1/users", map[string]string{"name": args[0], "password": password, "role": role}, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.out, "user %s is %s\n", args[0], role)
			return err
		},
	}
	roleFlag(c, &role, "viewer", personRoles, "viewer", "operator", "administrator", "auditor")
	return c
}

// inviteAnswer is a set-up link; it is shown this once.
type inviteAnswer struct {
	Link    string `json:"link"`
	User    string `json:"user"`
	Role    string `json:"role"`
	Expires int64  `json:"expires"`
}

func newUserInvite(s streams, t *target) *cobra.Command {
	var form outputForm
	var role string
	var life time.Duration
	c := &cobra.Command{
		Use:   "invite NAME",
		Short: "Print a link, good once, with which the user chooses a password",
		Long: `Makes the user when there is none of that name, with the role given. For a user who exists it is how a forgotten
password is replaced: the old one is good until the link was used. An earlier link of the user is taken back.

Whoever has the link first has the account: send it over a channel that you trust.`,
		Example: "  triward user invite ada --role operator\n  triward user invite admin",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			body := map[string]any{"role": role, "life_s": int64(life.Seconds())}
			var a inviteAnswer
			if shown, err := cl.showPost(c.Context(), s, &form, "/v1/users/"+url.PathEscape(args[0])+"/invite", body, &a); err != nil || shown {
				return err
			}
			fmt.Fprintln(s.out, a.Link)
			_, err = fmt.Fprintf(s.err, "good once, until %s, for %s (%s)\n", timeText(a.Expires), a.User, a.Role)
			return err
		},
	}
	form.flag(c)
	roleFlag(c, &role, "", "of a new user: "+personRoles, "viewer", "operator", "administrator", "auditor")
	c.Flags().DurationVar(&life, "ttl", 24*time.Hour, "how long the link is good for")
	return c
}

func newUserPassword(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "password NAME",
		Short: "Give a user another password, which is asked for; their sessions end",
		Long:  `Asks for the password twice; without a terminal it is the first line of standard input.`,
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			password, err := newSecretFrom(s, "New password: ")
			if err != nil {
				return err
			}
			return changeUser(c, s, t, args[0], map[string]any{"password": password}, "has another password; their sessions have ended")
		},
	}
}

func changeUser(c *cobra.Command, s streams, t *target, name string, body map[string]any, said string) error {
	cl, err := t.client()
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if err := cl.call(c.Context(), http.MethodPatch, "/v1/users/"+url.PathEscape(name), encoded, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "user %s %s\n", name, said)
	return err
}

func newUserRole(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "role NAME ROLE", Short: "Give a user another role; it holds at once", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return changeUser(c, s, t, args[0], map[string]any{"role": args[1]}, "is "+args[1])
		},
	}
}

func newUserDisable(s streams, t *target, disable bool) *cobra.Command {
	c := &cobra.Command{
		Use: "enable NAME", Short: "Let a disabled user in again", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return changeUser(c, s, t, args[0], map[string]any{"disabled": false}, "may log in again")
		},
	}
	if disable {
		c.Use, c.Short = "disable NAME", "Keep a user out without forgetting them; their sessions end and their tokens are void meanwhile"
		c.RunE = func(c *cobra.Command, args []string) error {
			return changeUser(c, s, t, args[0], map[string]any{"disabled": true}, "is disabled; their sessions have ended")
		}
	}
	return c
}

func newUserDelete(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Remove a user with their sessions and the tokens that they have made", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if err := cl.call(c.Context(), http.MethodDelete, "/v1/users/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.out, "user %s is gone\n", args[0])
			return err
		},
	}
}

// maxSecretLine bounds what is read of standard input for a secret.
const maxSecretLine = 4 << 10

// newSecretFrom asks for a new secret twice on a terminal; otherwise it is the first line of standard input.
func newSecretFrom(s streams, prompt string) (string, error) {
	if in, ok := s.in.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		first, err := askSecret(s, prompt)
		if err != nil {
			return "", err
		}
		again, err := askSecret(s, "Again: ")
		if err == nil && again != first {
			err = errors.New("the two are not the same")
		}
		return first, err
	}
	return secretLine(s.in)
}

// secretLine is the first line of in.
func secretLine(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, maxSecretLine)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password from standard input: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("the first line of standard input is empty: give the password there, or use a terminal")
	}
	return line, nil
}

func newRole(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "role", Short: "What each role may do", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	var form outputForm
	list := &cobra.Command{
		Use: "list", Short: "List the roles and what each may do", Args: cobra.NoArgs,
		Long: `Lists the permissions of each role. With -o json it also names every route and every kind of live subscription that
a permission opens, as the cluster itself goes by them.`,
		RunE: func(c *cobra.Command, _ []string) error {
			var answer struct {
				Roles []struct {
					Role        string   `json:"role"`
					Permissions []string `json:"permissions"`
				} `json:"roles"`
			}
			if shown, err := ask(c, s, &t, &form, "/v1/roles", nil, &answer); err != nil || shown {
				return err
			}
			tab := newTable(s.out, "role", "may")
			for _, r := range answer.Roles {
				var may []string
				for _, p := range r.Permissions {
					if text := permissionText[p]; text != "" {
						may = append(may, text)
					}
				}
				tab.row(r.Role, strings.Join(may, "; "))
			}
			return tab.flush()
		},
	}
	form.flag(list)
	c.AddCommand(list)
	return c
}

// permissionText is what a permission is for, in a few words; what everybody may is left out.
var permissionText = map[string]string{
	"read":       "see data and state",
	"operate":    "acknowledge, silence, work with alerts",
	"administer": "change users, tokens, rules, nodes, backups",
	"ingest":     "send data",
	"audit":      "see users, sessions, tokens and the audit log",
}

type sessionRow struct {
	ID      string `json:"id"`
	User    string `json:"user"`
	Created int64  `json:"created"`
	Expires int64  `json:"expires"`
	Address string `json:"address"`
}

func newSession(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "session", Short: "Who is logged in", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	var form outputForm
	var user, endUser string
	list := &cobra.Command{
		Use: "list", Short: "List the open sessions", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var answer struct {
				Sessions []sessionRow `json:"sessions"`
			}
			q := url.Values{}
			if user != "" {
				q.Set("user", user)
			}
			if shown, err := ask(c, s, &t, &form, "/v1/sessions", q, &answer); err != nil || shown {
				return err
			}
			tab := newTable(s.out, "session", "user", "from", "since", "until, unless used")
			for _, r := range answer.Sessions {
				tab.row(r.ID, r.User, r.Address, timeText(r.Created), timeText(r.Expires))
			}
			return tab.flush()
		},
	}
	form.flag(list)
	list.Flags().StringVar(&user, "user", "", "only those of this user")
	end := &cobra.Command{
		Use: "end [SESSION]", Short: "End a session, or with --user all sessions of a user; pages in browsers close within a second",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path := "/v1/users/" + url.PathEscape(endUser) + "/sessions"
			switch {
			case (len(args) == 1) == (endUser != ""):
				return errors.New("name one session of `triward session list`, or a user with --user")
			case len(args) == 1:
				path = "/v1/sessions/" + url.PathEscape(args[0])
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			answer := struct {
				Ended int `json:"ended"`
			}{1}
			var into any
			if endUser != "" {
				into = &answer
			}
			if err := cl.call(c.Context(), http.MethodDelete, path, nil, into); err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.out, "%d session(s) ended\n", answer.Ended)
			return err
		},
	}
	end.Flags().StringVar(&endUser, "user", "", "end all sessions of this user")
	c.AddCommand(list, end)
	return c
}
