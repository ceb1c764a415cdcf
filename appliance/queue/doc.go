// Package queue shows the log to those who read it as a queue: topics, messages as the stores hold them, named
// consumers whose cursors are replicated metadata, and how far each is behind.
//
// The log is the queue (package raftstate): nothing is copied for consumers, and none of them keeps the log longer than
// its retention. A consumer that is overtaken by retention is told which entries it missed (GapError) and may read their
// time again from the stores. What a message of an entry is follows from the entry and from what became of it when it
// was applied (command.Verdict): batches that came twice and items that were refused are no messages. So every message
// has one identity, index and item, for as long as the cluster lives in one incarnation, and consumers get them in the
// order of the log, each at least once.
//
// Reading never moves a cursor; only Commit does, and only forward, for whoever holds the consumer's token. Opening a
// consumer gives out a new token, and so do replays: a reader that was replaced is refused from then on.
//
// The package owns the bucket queue_consumers. It reads the log and the metadata through the interfaces below and must
// not import the stores.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/raftstate"
)

// Bucket of the metadata that this package owns: a Consumer by its name.
const Bucket = "queue_consumers"

// Topic is what messages are of.
type Topic string

// The topics.
const (
	Metrics Topic = "metrics" // samples that the store of metrics took
	Logs    Topic = "logs"    // lines
	Events  Topic = "events"  // events of hosts and of the cluster
	Alerts  Topic = "alerts"  // what became of alerts, and the notifications that were sent
)

// Topics lists the topics in the order in which they are shown.
func Topics() []Topic { return []Topic{Metrics, Logs, Events, Alerts} }

func (t Topic) place() int { return slices.Index(Topics(), t) }

// rawNote says what there is of raw data.
const rawNote = "raw data is the request in flight and is never stored: what redaction removes must not lie anywhere; these are the same messages as they were stored"

// aliases are the names that the evaluation of the system gave to topics.
var aliases = map[string]Topic{
	"agent.metrics.raw": Metrics, "monitor.metrics.raw": Metrics, "metrics.raw": Metrics,
	"metrics.validated": Metrics, "metrics.transformed": Metrics, "metrics.stored": Metrics,
	"metrics.processed": Metrics, "monitor.metrics.processed": Metrics,
	"agent.logs.raw": Logs, "logs.raw": Logs, "logs.parsed": Logs, "logs.filtered": Logs, "logs.archived": Logs,
	"logs.processed": Logs, "monitor.logs": Logs,
	"agent.events.raw": Events, "events.raw": Events, "events.processed": Events, "monitor.events": Events,
	"events.alert": Alerts, "events.notify": Alerts, "alert.check": Alerts, "alert.notify": Alerts,
	"alert.rules.check": Alerts, "alert.notification": Alerts,
}

// ParseTopic reads the name of a topic or one of its aliases. note, when it is not empty, is what the caller should be
// told about the name.
func ParseTopic(name string) (t Topic, note string, err error) {
	t = Topic(name)
	if t.place() >= 0 {
		return t, "", nil
	}
	t, ok := aliases[name]
	if !ok {
		return "", "", fmt.Errorf("%w: there is no topic %.80q; there are metrics, logs, events and alerts", ErrInvalid, name)
	}
	note = fmt.Sprintf("%s is %s", name, t)
	if strings.HasSuffix(name, ".raw") {
		note += ": " + rawNote
	}
	return t, note, nil
}

// Aliases returns the other names of a topic, sorted.
func (t Topic) Aliases() (names []string) {
	for name, topic := range aliases {
		if topic == t {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Position is a place in the log: the message Item of the entry Index, or the first one behind it. Its text is
// "index.item".
type Position struct {
	Index uint64
	Item  uint64
}

// String returns the text of the position.
func (p Position) String() string { return fmt.Sprintf("%d.%d", p.Index, p.Item) }

// Less reports whether p lies before q.
func (p Position) Less(q Position) bool {
	return p.Index < q.Index || p.Index == q.Index && p.Item < q.Item
}

// ParsePosition reads "index.item" or "index".
func ParsePosition(text string) (p Position, err error) {
	index, item, found := strings.Cut(text, ".")
	if p.Index, err = strconv.ParseUint(index, 10, 63); err == nil && found {
		p.Item, err = strconv.ParseUint(item, 10, 48)
	}
	if err != nil || p.Index == 0 {
		return Position{}, fmt.Errorf("%w: position %.60q: want INDEX or INDEX.ITEM, as `next` of an answer has it", ErrInvalid, text)
	}
	return p, nil
}

// MarshalText implements encoding.TextMarshaler.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (p *Position) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePosition(string(b))
	return err
}

// Errors of this package, beside those of the log and of the metadata. They come wrapped.
var (
	// ErrInvalid says that an argument breaks a rule; the text names it.
	ErrInvalid = errors.New("invalid")
	// ErrNoConsumer says that there is no consumer of the name.
	ErrNoConsumer = errors.New("there is no such consumer")
	// ErrExists says that the name is taken.
	ErrExists = errors.New("the consumer exists already")
	// ErrHeld says that somebody else reads as the consumer.
	ErrHeld = errors.New("the consumer is read by somebody else")
	// ErrFenced says that the token is not the newest: somebody else opened the consumer since, or it was replayed.
	ErrFenced = errors.New("the token is not that of the consumer any more")
	// ErrBehind says that this node has not applied yet what gave out the token. Try again, or another node.
	ErrBehind = errors.New("this node is behind the others")
	// ErrTooMany says that there are as many consumers, or readers, as there may be.
	ErrTooMany = errors.New("too many")
	// ErrElsewhere says that the consumer keeps its place itself, so that it cannot be read or changed here.
	ErrElsewhere = errors.New("the consumer keeps its place itself")
)

// GapError says that a consumer was overtaken by the log's retention: entries From to To are gone on all members that
// answer.
type GapError struct {
	Gap
	// Silent are members that did not answer: they may hold some of it.
	Silent []string
}

// Gap is what a consumer cannot be given any more.
type Gap struct {
	From Position `json:"from"`
	To   uint64   `json:"to"` // the last entry that is gone
	// FromTime and ToTime are log times in ms around it; 0 when it is not known.
	FromTime int64 `json:"from_time_ms"`
	ToTime   int64 `json:"to_time_ms"`
	// Next is where to read on.
	Next Position `json:"next"`
}

// Error implements error.
func (e *GapError) Error() string {
	return fmt.Sprintf("the log was retained no longer: entries %d to %d are gone", e.From.Index, e.To)
}

// Log is the log as this package reads it (raftstate.Node).
type Log interface {
	// ReadQueue returns entries from index from on, wherever in the cluster they still are; a *raftstate.GoneError when
	// nowhere.
	ReadQueue(ctx context.Context, from uint64, limit int, maxBytes int64) ([]raftstate.QueueEntry, uint64, error)
	// EntryAt returns the first entry that was stamped at ms or later.
	EntryAt(ctx context.Context, ms int64) (uint64, error)
	OldestEntry(ctx context.Context) (first uint64, silent []string, err error)
	AppliedIndex() uint64
	WaitApplied(ctx context.Context, index uint64) error
	QueuedBytes(from, to uint64) int64
}

// Dictionary knows the labels of series.
type Dictionary interface {
	SeriesLabels(id uint64) (wire.Labels, bool)
}

// Config of a Service.
type Config struct {
	Log  Log
	Meta auth.Meta
	// Series may know less than the log: series that nobody sends any more are forgotten.
	Series  Dictionary
	Leading func() bool
	// Incarnation names the life of the cluster in which indexes mean what they say.
	Incarnation func() string
	// OnGap is told of a consumer that was overtaken, by the node that leads; it must tell of each once only.
	OnGap func(c *Consumer, g Gap)
	// Others are consumers that keep their place themselves, such as the archive.
	Others func() []Consumer

	Interval   time.Duration // how often the leader looks for gaps; 10 s
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}
