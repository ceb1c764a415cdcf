// Package logstore keeps log lines and events of one node and answers every question about them. It owns the
// directory it is given: <dir>/pebble is the truth, <dir>/index (a Bleve index a day) is derived from it and
// may be lost at any time.
//
// ApplyLogs puts batches as they came into an inbox; background work seals them into columnar blocks (package
// block), merges small blocks and gives their words to the index (package index). What a filter means is
// decided on a line alone (package query, package words), and every search is exact: it finds what a look at
// all lines would find, wherever they are just then, each once, in the order of (time, position), so that all
// nodes answer alike.
//
// Nothing is durable before Flush and a syncfs: Pebble runs without its log, because the Raft log is the log.
// After a crash the store is as of some earlier Applied, and is fed again from there; entries it has it passes
// over. Damage is reported as a DamageError and never served.
//
// The package must not import raftstate, tsdb, ui or agent, only agent/wire. It implements raftstate.LogSink.
package logstore
