package appliance

import (
	"context"
	"net/http"
	"time"

	"github.com/triward/triward/appliance/api/live"
	"github.com/triward/triward/appliance/api/lokiapi"
)

// openLoki makes the API of Loki over the store of lines.
func (a *App) openLoki() http.Handler {
	h := lokiapi.New(lokiapi.Options{
		Store: a.logs, Feed: a.lines, Gate: live.NewGate(a.auth, a.origins), Timeout: time.Duration(a.cfg.Limits.QueryTimeout),
		Elsewhere: a.others.elsewhere, Answers: a.answers, Version: a.version, Log: a.part("lokiapi"), Registerer: a.registry,
	})
	a.loki.Store(h)
	a.onStop("loki", func(context.Context) error { return h.Close() })
	return h
}
