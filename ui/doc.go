// Package ui serves browsers: the live hub behind the websocket /v1/live and the embedded page with its assets.
//
// It owns the connections, the subscriptions and what is queued for each of them, and promises that equal
// subscriptions are evaluated once per tick for all clients, that whatever a slow reader leaves unread stays
// bounded, that a client which resumes with its cursor loses and doubles nothing that is still held, and that a
// connection ends within a second of its session. The socket is read-only.
//
// What it shows comes through the interfaces of source.go. The package must not import raftstate, tsdb, logstore,
// agent (but agent/wire) or appliance.
package ui
