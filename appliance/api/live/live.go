// Package live gives the live socket (package ui) what it asks for: access from package auth by the route table of
// package api, hosts from package fleet, the cluster's state and PromQL from the App. It holds no state and must not
// import raftstate or the stores.
package live

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/ui"
)

// Gate is the ui.Gate over the users, sessions and tokens of a node.
type Gate struct {
	auth    *auth.Service
	origins func() []string
	kinds   map[string]auth.Permission
}

var _ ui.Gate = (*Gate)(nil)

// NewGate makes a gate. origins lists the origins whose pages may connect; API.Origins is meant for it.
func NewGate(s *auth.Service, origins func() []string) *Gate {
	return &Gate{auth: s, origins: origins, kinds: api.SocketKinds()}
}

func viewer(p auth.Principal) ui.Viewer {
	return ui.Viewer{User: string(p.Kind) + ":" + p.Name, Role: string(p.Role), Key: string(p.Kind) + ":" + p.Key}
}

// Viewer returns who makes the request.
func (g *Gate) Viewer(r *http.Request) (ui.Viewer, bool) {
	p, err := g.auth.Authenticate(r)
	return viewer(p), err == nil
}

// Recheck looks the session or token up again.
func (g *Gate) Recheck(v ui.Viewer) (ui.Viewer, bool) {
	for _, kind := range []auth.Kind{auth.KindSession, auth.KindToken} {
		prefix := string(kind) + ":"
		if len(v.Key) > len(prefix) && v.Key[:len(prefix)] == prefix {
			p, ok := g.auth.Recheck(auth.Principal{Kind: kind, Key: v.Key[len(prefix):]})
			return viewer(p), ok
		}
	}
	return ui.Viewer{}, false
}

// May reports whether the viewer's role allows the kind; an unknown kind is allowed to nobody.
func (g *Gate) May(v ui.Viewer, kind string) bool { return auth.Role(v.Role).Allows(g.kinds[kind]) }

// Watch passes on that access may have changed.
func (g *Gate) Watch() (<-chan struct{}, func()) { return g.auth.Watch() }

// Origins returns the origins whose pages may connect.
func (g *Gate) Origins() []string { return g.origins() }

// Hosts is the ui.HostsSource over the fleet's view.
type Hosts struct{ View *fleet.View }

// Hosts returns all rows.
func (h Hosts) Hosts(full bool) ([]ui.Host, error) {
	_, rows := h.View.Hosts()
	out := make([]ui.Host, len(rows))
	for i := range rows {
		out[i] = ui.Host{ID: rows[i].ID, Row: rows[i].AppendJSON(nil, full)}
	}
	return out, nil
}

// Cluster is the ui.ClusterSource over the API's.
type Cluster struct{ Source api.Cluster }

// Cluster returns the body of GET /v1/cluster.
func (c Cluster) Cluster(ctx context.Context) (json.RawMessage, error) { return c.Source.Status(ctx) }

// Agents is the ui.AgentsSource over the fleet's view.
type Agents struct{ View *fleet.View }

// Agents returns all rows, without the inventories that come with heartbeats.
func (a Agents) Agents(context.Context) ([]ui.Host, error) {
	list := a.View.Agents()
	out := make([]ui.Host, len(list))
	for i := range list {
		list[i].Heartbeat = nil
		row, err := json.Marshal(&list[i])
		if err != nil {
			return nil, fmt.Errorf("encode agent: %w", err)
		}
		out[i] = ui.Host{ID: list[i].ID, Row: row}
	}
	return out, nil
}

// Alerts is the ui.AlertsSource over the alerting of a node.
type Alerts struct {
	Source *alerting.Service

	mu   sync.Mutex
	of   uint64
	rows []ui.Host
}

// maxAlerts bounds the alerts that are shown live; others are found by the API.
const maxAlerts = 5000

// Alerts returns all rows. As long as nothing changes they are made once.
func (a *Alerts) Alerts(context.Context) ([]ui.Host, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Source.Generation()
	if a.rows != nil && now == a.of {
		return a.rows, nil
	}
	list := a.Source.Alerts(alerting.AlertFilter{Limit: maxAlerts})
	rows := make([]ui.Host, len(list.Alerts))
	for i := range list.Alerts {
		row, err := json.Marshal(&list.Alerts[i])
		if err != nil {
			return nil, fmt.Errorf("encode alert: %w", err)
		}
		rows[i] = ui.Host{ID: list.Alerts[i].ID, Row: row}
	}
	a.rows, a.of = rows, now
	return rows, nil
}
