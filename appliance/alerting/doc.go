// Package alerting raises alerts and tells receivers of them: it evaluates rules on the node that leads, keeps what
// became of each alert in replicated metadata, and sends messages, each after its intent is committed.
//
// Everything it decides by is replicated metadata and log time: rules, routes, silences, alerts, what groups were told,
// and the claims of messages not yet settled. A node that becomes the leader takes a lease first, and every change that
// a leader makes holds only while that lease stands, so that one that was deposed changes nothing. Deadlines are
// absolute log times: they survive a change of the leader and a restart as they are.
//
// Notifications (DESIGN D13): none is lost, since a claim is settled only by a committed result; one is doubled only
// when a sender dies or is cut off between its claim and its result, with the same dedup key.
//
// Pure parts are the sub-packages rules, state, route and notify. The package must not import raftstate, the stores, ui
// or api: it reaches them through the interfaces of this file.
package alerting

import (
	"context"
	"errors"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/triward/triward/appliance/alerting/rules"
)

// Buckets of the metadata that this package owns.
const (
	BucketRules    = "alert_rules"
	BucketRoutes   = "alert_routes"
	BucketSilences = "alert_silences"
	BucketAlerts   = "alerts"
	BucketGroups   = "alert_groups"
	BucketSends    = "alert_sends"
	BucketHistory  = "alert_history"
	BucketHealth   = "alert_health"
	BucketLease    = "alert_lease"
	BucketVersions = "alert_versions" // earlier rules and routes
)

// Buckets lists them.
func Buckets() []string {
	return []string{
		BucketRules, BucketRoutes, BucketSilences, BucketAlerts, BucketGroups, BucketSends, BucketHistory, BucketHealth, BucketLease,
		BucketVersions,
	}
}

// Value is a value of the metadata and the log index that wrote it.
type Value struct {
	Data     []byte
	ModIndex uint64
}

// Compare is a condition of a transaction: the key was last written at ModIndex; 0 means it must be absent.
type Compare struct {
	Bucket, Key string
	ModIndex    uint64
}

// Op is one change of a transaction. Expires is log time in milliseconds since 1970, 0 for never.
type Op struct {
	Delete      bool
	Bucket, Key string
	Value       []byte
	Expires     int64
}

// Audit says who did what; Detail is a JSON value or nothing.
type Audit struct {
	Actor, Address, Action, Target string
	Detail                         []byte
}

// Txn is applied whole, or not at all when one of its conditions does not hold. It has at most 256 conditions and 256
// changes.
type Txn struct {
	Compares []Compare
	Ops      []Op
	Audit    []Audit
}

// Meta is the replicated metadata. All methods may be called at any time from any goroutine; returned bytes must not be
// changed.
type Meta interface {
	// Get returns what this node has applied; a key that expired by log time is absent.
	Get(bucket, key string) (Value, bool)
	// Scan calls fn for each key with the prefix in ascending order until fn returns false.
	Scan(bucket, prefix string, fn func(key string, v Value) bool)
	// LogTime is the newest log time applied here, in milliseconds since 1970.
	LogTime() int64
	// Commit returns once the transaction is committed on a majority and applied on this node. It returns ErrConflict
	// when a condition did not hold; any other error may leave the outcome unknown.
	Commit(ctx context.Context, txn Txn) (index uint64, err error)
}

// Leadership says whether this node leads.
type Leadership interface {
	// Verify returns nil when a majority confirms, after the call began, that this node leads, and this node has applied
	// everything that was committed before.
	Verify(ctx context.Context) error
	// Term is the newest term that this node knows.
	Term() uint64
}

// Sample is one element of a PromQL answer.
type Sample struct {
	Labels map[string]string
	T      int64 // ms
	V      float64
}

// Series is a line of a PromQL answer over time.
type Series struct {
	Labels map[string]string
	T      []int64 // ms
	V      []float64
}

// Metrics answers PromQL.
type Metrics interface {
	Instant(ctx context.Context, query string, t int64) ([]Sample, error)
	Range(ctx context.Context, query string, start, end, step int64) ([]Series, error)
	// Parser is the parser with the bounds that queries have here.
	Parser() parser.Parser
}

// Recorder stores what recording rules give.
type Recorder interface {
	// Record stores values of series, named by all their labels, for the time t (ms). A value that a series holds for that
	// time already stays as it is. The error names series that were refused; the others are stored all the same.
	Record(ctx context.Context, t int64, values []Sample) error
}

// Count is a number of lines that share a value of a label.
type Count struct {
	Value string
	Lines int64
}

// Line is a line of the log as event rules see it.
type Line struct {
	Index  uint64 // of the entry that brought it
	T      int64  // ms
	Labels map[string]string
	Fields map[string]string
	Text   string
}

// Logs answers questions about lines and events.
type Logs interface {
	// CheckQuery says what is wrong with a query, and where.
	CheckQuery(text string) error
	// CheckLogQL reads an expression in LogQL whose answer is numbers, or says what is wrong with it and where.
	CheckLogQL(text string) (rules.Shape, error)
	// LogQL answers an expression in LogQL at a time (ms). It fails when lines may be missing: an answer is whole.
	LogQL(ctx context.Context, expr string, t int64) ([]Sample, error)
	// LogQLRange answers it over time, for somebody who looks. It fails when lines may be missing.
	LogQLRange(ctx context.Context, expr string, start, end, step int64) ([]Series, error)
	// Count counts matching lines of [start, end) (ms) by the values of a label or field, or all as one when by is "".
	// At most limit values are returned, the most frequent ones; more says that there were others.
	Count(ctx context.Context, query string, start, end int64, by string, limit int) (counts []Count, more bool, err error)
	// EventsAfter returns matching events of entries behind index in the order of the log, at most limit; more says that
	// the last entry may not be complete and there is more to ask for.
	EventsAfter(ctx context.Context, query string, index uint64, limit int) (lines []Line, more bool, err error)
	// Applied is the newest entry whose lines EventsAfter sees.
	Applied() uint64
}

// Agent is an agent of the fleet.
type Agent struct {
	ID, Host string
	Tags     map[string]string
	LastSeen int64 // log time, ms; 0 never
}

// Fleet lists the agents that are not revoked.
type Fleet interface{ Agents() []Agent }

// Sealer keeps secrets in ciphertext wherever they are stored (invariant I7).
type Sealer interface {
	// Seal encrypts plain for the purpose with the cluster's key ring.
	Seal(purpose string, plain []byte) (string, error)
	// Open is the inverse of Seal with the same purpose.
	Open(purpose, sealed string) ([]byte, error)
}

// Sentinels.
var (
	// ErrConflict says that a condition of a transaction did not hold.
	ErrConflict = errors.New("the record was changed by somebody else")
	// ErrNotFound says that there is nothing of that name.
	ErrNotFound = errors.New("not found")
	// ErrInvalid says that what was sent breaks a rule; the text names it.
	ErrInvalid = errors.New("invalid")
	// ErrLimit says that a bound on the number of records is reached.
	ErrLimit = errors.New("limit reached")
	// ErrNoSealer says that a secret cannot be stored because the cluster has no key ring.
	ErrNoSealer = errors.New("this cluster has no key ring yet, so secrets of receivers cannot be stored")
	// ErrOldNodes says that there may be nodes which cannot read a rule.
	ErrOldNodes = errors.New("nodes of an older release may lead, and cannot read rules in LogQL")
	// ErrState says that an alert is not in the state for what was asked.
	ErrState = errors.New("not possible in this state")
)

// Bounds of the whole cluster.
const (
	MaxRules     = 5000
	MaxFiles     = 200
	MaxAlerts    = 50_000
	MaxSilences  = 2000
	MaxHistory   = 20_000
	HistoryAge   = 90 * 24 * 3600 * 1000 // ms
	keptSilences = 5 * 24 * 3600 * 1000  // ms after their end
	keptResolved = 15 * 60 * 1000        // ms after their end, when everybody was told
	keptVersions = 10
	seenEvery    = 60_000  // ms: how often the leader notes that it evaluates
	outage       = 150_000 // ms without such a note are an outage
	stepEvery    = 1_000   // ms
	txnBytes     = 384 << 10
	txnChanges   = 60
)
