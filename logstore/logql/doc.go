// Package logql answers queries in LogQL, the language of Loki and of Grafana's log panels, over any source of log lines.
//
// Parse reads a query, an Engine evaluates it over a Source, Tail judges single lines. What a query means follows Loki's
// public documentation, and where that is silent, docs/logql.md says what was decided and why; nothing of Loki's own source
// was read, and no answer was compared with a running Loki.
//
// An evaluation reads lines in the order of time and holds only what the windows at hand need. It ends with a LimitError
// instead of growing: series, points, samples, memory and output are bounded (Limits), and templates, documents and nesting
// within lines too.
//
// The package knows lines and labels (agent/wire) and nothing of the store; what it needs of one is the interface Source.
package logql
