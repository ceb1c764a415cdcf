package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func newToken(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "token", Short: "API tokens, with which programs and this one ask the cluster", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newTokenCreate(s, &t))
	return c
}

func newTokenCreate(s streams, t *target) *cobra.Command {
	var form outputForm
	var name, role string
	var life time.Duration
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an API token and print it once",
		Long: `Makes an API token. With --user it logs in as that user first, whose password it asks for (or takes from
TRIWARD_PASSWORD); without, it needs an administrator's token already.`,
		Example: "  export TRIWARD_TOKEN=$(triward token create laptop --user admin)",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if name != "" {
				password, err := askPassword(s)
				if err != nil {
					return err
				}
				if cl.cookie, err = cl.login(c.Context(), name, password); err != nil {
					return fmt.Errorf("log in: %w", err)
				}
				cl.token = ""
			}
			var raw json.RawMessage
			body := map[string]any{"name": args[0], "role": role, "life_s": int64(life.Seconds())}
			if err := cl.post(c.Context(), "/v1/tokens/api", body, &raw); err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, raw)
			}
			var answer struct {
				Token string `json:"token"`
			}
			if err := json.Unmarshal(raw, &answer); err != nil {
				return fmt.Errorf("answer of /v1/tokens/api: %w", err)
			}
			_, err = fmt.Fprintln(s.out, answer.Token)
			return err
		},
	}
	form.flag(c)
	c.Flags().StringVar(&name, "user", "", "log in as this user first")
	c.Flags().StringVar(&role, "role", "administrator", "what the token may do: viewer, operator, administrator or ingest")
	c.Flags().DurationVar(&life, "life", 0, "how long it is good for; 0: until it is revoked")
	_ = c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"viewer", "operator", "administrator", "ingest"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// askPassword takes a password from TRIWARD_PASSWORD, from the terminal without showing it, or from the first line
// of standard input.
func askPassword(s streams) (string, error) {
	if p := os.Getenv("TRIWARD_PASSWORD"); p != "" {
		return p, nil
	}
	if f, ok := s.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(s.err, "Password: ")
		p, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(s.err)
		if err != nil {
			return "", fmt.Errorf("read password: %w", err)
		}
		return string(p), nil
	}
	line, err := bufio.NewReader(io.LimitReader(s.in, 4<<10)).ReadString('\n')
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.Join(errors.New("no password: set TRIWARD_PASSWORD or give it on standard input"), notEOF(err))
	}
	return line, nil
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
