package api

import (
	"net/http"

	"github.com/triward/triward/appliance/auth"
)

// lokiPrefix is where the API of Loki stands. Pushing is one of the routes of intake.
const lokiPrefix = "/loki/api/v1/"

func lokiRoutes() []Route {
	loki := func(a *API) http.Handler { return a.cfg.Loki }
	return []Route{
		{
			Method: "GET", Path: lokiPrefix, Permission: auth.Read, Fresh: true, mount: loki,
			Summary: "The HTTP API of Loki: query, query_range, labels, label/{name}/values, series, index/stats, index/volume, index/volume_range, " +
				"detected_labels, detected_fields, detected_field/{name}/values, format_query, status/buildinfo",
		},
		{
			Method: "POST", Path: lokiPrefix, Permission: auth.Read, Fresh: true, MaxBody: 1 << 20, mount: loki,
			Summary: "The HTTP API of Loki, parameters as a form; consistency and min_index in the URL",
		},
		{
			Method: "GET", Path: lokiPrefix + "tail", Permission: auth.Read, Status: http.StatusSwitchingProtocols, mount: loki,
			Summary: "Lines as they are accepted, over a websocket, in Loki's form",
		},
	}
}
