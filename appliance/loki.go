package appliance

import (
	"context"
	"net/http"
	"time"

	"github.com/triward/triward/appliance/api/lokiapi"
	"github.com/triward/triward/appliance/auth"
)

// openLoki makes the API of Loki over the store of lines.
func (a *App) openLoki() http.Handler {
	h := lokiapi.New(lokiapi.Options{
		Store: a.logs, Version: a.version, Logger: a.part("lokiapi"), Origins: a.origins,
		Allowed: func(r *http.Request) bool {
			p, err := a.auth.Authenticate(r)
			return err == nil && p.Role.Allows(auth.Read)
		},
		LogTime: func() time.Time { return time.UnixMilli(a.state.LogTime()) },
	})
	a.onStop("loki", func(context.Context) error { return h.Close() })
	return h
}
