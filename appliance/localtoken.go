package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pki"
)

// fileToken lies beside the node's keys, with mode 0600.
const fileToken = "cli-token"

// TokenPath is where the node keeps an administrator's API token for the command line on its own machine. The
// configuration must be resolved.
func (c *Config) TokenPath() string { return filepath.Join(c.TLS.Dir, fileToken) }

// ReadToken returns the token of the command line on this machine. The error is fs.ErrNotExist when the node has made
// none yet, fs.ErrPermission for those whom it is not for.
func (c *Config) ReadToken() (string, error) {
	body, err := os.ReadFile(c.TokenPath())
	if err != nil {
		return "", fmt.Errorf("read token of the node: %w", err)
	}
	return strings.TrimSpace(string(body)), nil
}

// localToken is the step that sees to it that the command line on this machine has a token: it makes a new one when the
// file is gone or the cluster does not know what it holds. Only the hash is proposed.
type localToken struct {
	app    *App
	secret string // made and not yet in the file
}

func (l *localToken) ensure(ctx context.Context) error {
	a := l.app
	if l.secret == "" {
		held, err := a.cfg.ReadToken()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && a.auth.NodeTokenGood(a.cfg.NodeID, held) {
			return nil
		}
		l.secret = auth.NewNodeToken()
	}
	if !a.auth.NodeTokenGood(a.cfg.NodeID, l.secret) {
		if err := a.auth.SetNodeToken(ctx, a.cfg.NodeID, l.secret); err != nil {
			return err
		}
	}
	return pki.WriteSecret(a.cfg.TokenPath(), []byte(l.secret+"\n"))
}
