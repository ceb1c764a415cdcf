// Package events tells what happens to the cluster itself as events: leaders and nodes that come and go, disks, clocks
// and certificates of nodes, data that was cut for want of room, backups, agents, alerts. It decides what happened and
// owns the records that keep an event from being told twice; the App gives it the state that it compares and delivers
// the lines.
//
// An event goes three steps, each an entry of the log. First a transaction writes it into the outbox, together with the
// change that it tells of: a fact that is no longer as it was, or a mark that a thing with this name was told. Of two
// nodes that notice the same only one transaction holds. Then the leader delivers what lies in the outbox as lines; what
// lies there says every byte of the line, so that a leader that takes over delivers the same again, which the state
// machine drops. Last the outbox is emptied. So an event is told once in effect, whoever dies when.
//
// The package imports package auth for the form of metadata, and nothing of the stores.
package events

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
)

// Bucket of the metadata that this package owns.
const Bucket = "cluster_events"

// Sources of events, the label `source` of their streams.
const (
	SourceCluster = "cluster"
	SourceAlerts  = "alerts"
)

// Event is what is told.
type Event struct {
	// ID is the same whoever notices this, and however often: bucket and key of what changed, a node and an index.
	ID       string            `json:"id"`
	T        int64             `json:"t"` // log time in ms; 0: when it is written down
	Kind     string            `json:"kind"`
	Source   string            `json:"source,omitempty"` // SourceCluster when empty
	Host     string            `json:"host,omitempty"`   // node or host of the agent
	Agent    string            `json:"agent,omitempty"`
	Key      string            `json:"key,omitempty"` // what it happened to
	Severity wire.Severity     `json:"severity"`
	Text     string            `json:"text"`
	Tags     map[string]string `json:"tags,omitempty"`
}

// Bounds of an event.
const (
	maxText = 4 << 10
	maxTag  = 512
	maxTags = 24
)

// clip cuts a text of anywhere to a bound and to valid UTF-8.
func clip(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")[:min(len(s), limit)]
}

// bounded is the event as it may be written down.
func (e Event) bounded() Event {
	e.Text, e.Host, e.Key, e.Agent = clip(e.Text, maxText), clip(e.Host, 253), clip(e.Key, maxTag), clip(e.Agent, wire.MaxAgentID)
	if e.Source == "" {
		e.Source = SourceCluster
	}
	tags := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(e.Tags)) {
		if v := clip(e.Tags[name], maxTag); v != "" && name != "" && len(name) <= wire.MaxLabelName && len(tags) < maxTags {
			tags[clip(name, wire.MaxLabelName)] = v
		}
	}
	e.Tags = tags
	return e
}

// stream is the stream that the event's line belongs to.
func (e *Event) stream() wire.Labels {
	return wire.LabelsFromMap(map[string]string{"source": e.Source, "name": e.Kind, "host": e.Host, "agent": e.Agent})
}

// line is the event as a structured line: the same bytes whenever it is made of the same event.
func (e *Event) line() wire.LogLine {
	fields := maps.Clone(e.Tags)
	if fields == nil {
		fields = make(map[string]string)
	}
	fields["key"] = e.Key
	return wire.LogLine{T: e.T * 1e6, Severity: e.Severity, Text: []byte(e.Text), Fields: wire.LabelsFromMap(fields)}
}

// Node is a member of the cluster as the leader sees it.
type Node struct {
	ID      string
	Lost    bool  // does not answer the leader's heartbeats
	LostMs  int64 // for how long
	Known   bool  // what follows was told by the node
	Total   int64 // bytes of the disk under its data
	Free    int64
	Full    string // why it cannot write; "" when it can
	CertEnd int64  // ms since 1970
}

// Cluster is what the leader compares with what was told.
type Cluster struct {
	Leader  string
	Term    uint64
	Suspect string // why the leader does not go by its own clock
	Nodes   []Node
}

// Agent is an agent that is not revoked.
type Agent struct {
	ID, Host string
	LastSeen int64 // log time in ms; 0 never
}

// Config of a Service.
type Config struct {
	Node    string
	Meta    auth.Meta
	Leading func() bool
	// Fresh waits until Meta has everything acknowledged before the call: what a node notices while it starts is dated by
	// the cluster's clock and not by that of the state it came up with. Nil: Meta always has.
	Fresh func(ctx context.Context) error
	// Cluster asks the nodes how they are, for at most some seconds.
	Cluster func(ctx context.Context) (Cluster, error)
	Agents  func() []Agent
	// Deliver brings lines into the log. Lines that it brought before are dropped.
	Deliver func(ctx context.Context, lines *wire.LogBatch) error
	// Read makes the event of a record of a bucket that Buckets names; false when it is none, or older than since (ms).
	Read func(bucket, key string, since int64) (Event, bool)
	// Recent lists the keys of records of a bucket that are younger than since, or more.
	Recent  func(bucket string, since int64) []string
	Buckets []string

	Interval   time.Duration // 2 s
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// keepDone is how long it is remembered that something was told; Recent goes back not quite as far.
	keepDone    = 48 * 3600 * 1000 // ms
	lookBack    = 24 * 3600 * 1000 // ms
	agentLost   = 2 * 60 * 1000    // ms without a sign of life
	nodeLost    = 10 * 1000        // ms without an answer to heartbeats
	diskWarn    = 85               // per cent
	diskFull    = 95
	diskGrain   = 3 // per cent below where a level ends
	certEnds    = 7 * 24 * 3600 * 1000
	perTick     = 100       // transitions of agents in one look, and events in one delivery
	perDelivery = 256 << 10 // bytes of events in one delivery: a body of lines may have 512 KiB
	maxWaiting  = 256       // events of this node that wait to be written down
	prefixFact  = "fact/"
	prefixOut   = "out/"
	prefixDone  = "done/"
	maxChanged  = 4096
	lookTimeout = 10 * time.Second
)

func percentText(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
