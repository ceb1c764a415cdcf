package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
)

// firstUser says how the first administrator of a new cluster comes to a password: by a set-up link, or by one that is
// given or made here.
type firstUser struct {
	name     string
	life     time.Duration
	show     bool
	stdin    bool
	password string // that was given
}

func (u *firstUser) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&u.name, "user", "admin", "name of the first administrator")
	f.DurationVar(&u.life, "link-ttl", 24*time.Hour, "how long the set-up link is good for, from the first start on")
	f.BoolVar(&u.show, "password", false, "make a password and print it, instead of a set-up link")
	f.BoolVar(&u.stdin, "password-stdin", false, "take the password from the first line of standard input, instead of a set-up link")
	c.MarkFlagsMutuallyExclusive("password", "password-stdin")
}

// read takes the password that is given and refuses what the cluster would refuse once it runs.
func (u *firstUser) read(s streams) error {
	if err := auth.CheckUser(u.name, auth.RoleAdministrator); err != nil {
		return fmt.Errorf("--user: %w", err)
	}
	if u.life < time.Minute || u.life > auth.MaxInviteLife {
		return fmt.Errorf("--link-ttl %s: want 1m to %s", u.life, auth.MaxInviteLife)
	}
	if !u.stdin {
		return nil
	}
	var err error
	if u.password, err = secretLine(s.in); err != nil {
		return err
	}
	if n := len(u.password); n < auth.MinPassword || n > auth.MaxPassword {
		return errors.New("--password-stdin: " + fmt.Sprintf("a password of %d bytes; want %d to %d", n, auth.MinPassword, auth.MaxPassword))
	}
	return nil
}

// into puts the user into the setup and returns the line that tells of it; "" when there is nothing to tell.
func (u *firstUser) into(setup *appliance.Setup, url string) string {
	setup.User = u.name
	switch {
	case u.stdin:
		setup.Password = u.password
		return ""
	case u.show:
		setup.Password = newPassword()
		return "password  " + setup.Password + "\n"
	}
	secret, hash := auth.NewInvite()
	setup.Invite, setup.InviteLife = hash, appliance.Duration(u.life)
	return "link      " + strings.TrimSuffix(url, "/") + api.SetupPath(secret) + "\n"
}

// said begins the sentence about what is shown once.
func (u *firstUser) said() string {
	switch {
	case u.stdin:
		return "The recovery key is"
	case u.show:
		return "Password and recovery key are"
	}
	return "Set-up link and recovery key are"
}

// next is what comes after the start.
func (u *firstUser) next(env string) string {
	if u.stdin || u.show {
		return ""
	}
	return fmt.Sprintf(`  open the set-up link in a browser, within %s, and choose the password of %s; when it is lost, here
      %striward user invite %s
`, shortSpan(u.life), u.name, env, u.name)
}

// shortSpan writes a span without the zeroes at its end.
func shortSpan(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"0s", "0m"} {
		if rest := strings.TrimSuffix(text, zero); rest != text && (strings.HasSuffix(rest, "m") || strings.HasSuffix(rest, "h")) {
			text = rest
		}
	}
	return text
}
