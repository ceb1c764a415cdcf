// Package wire is the leaf package that every other one may import: the identity of a batch, the shapes in
// which samples, log lines and events travel and are applied, their binary bodies, the framing between agent
// and gateway, and the limits that hold on both sides.
//
// Everything here is final in shape from format 1 on (docs/formats.md); testdata holds golden bytes. The
// package imports nothing of Triward.
package wire

import "encoding/hex"

// Lane is an independent sequence of batches of one agent. Lanes never wait for one another.
type Lane uint8

// The lanes of an agent. Numbers are part of the wire format and are never reused.
const (
	LaneMetrics  Lane = 1
	LaneLogs     Lane = 2
	LaneEvents   Lane = 3
	LaneBackfill Lane = 4 // metrics older than the newest the agent has sent
)

// Lanes lists the lanes in the order of their numbers.
var Lanes = [...]Lane{LaneMetrics, LaneLogs, LaneEvents, LaneBackfill}

// String returns the name of the lane as shown to operators.
func (l Lane) String() string {
	switch l {
	case LaneMetrics:
		return "metrics"
	case LaneLogs:
		return "logs"
	case LaneEvents:
		return "events"
	case LaneBackfill:
		return "backfill"
	}
	return "unknown"
}

// Valid reports whether l is one of the lanes of this format.
func (l Lane) Valid() bool { return l >= LaneMetrics && l <= LaneBackfill }

// CarriesMetrics reports whether batches of the lane hold a metrics body (otherwise a logs body).
func (l Lane) CarriesMetrics() bool { return l == LaneMetrics || l == LaneBackfill }

// Epoch names one life of an agent's spool: 128 random bits made when the spool is created.
type Epoch [16]byte

// String returns the epoch as 32 hexadecimal digits.
func (e Epoch) String() string { return hex.EncodeToString(e[:]) }

// Identity names a batch for ever. The cluster applies exactly last+1 of each (Agent, Epoch, Lane).
type Identity struct {
	Agent string
	Epoch Epoch
	Lane  Lane
	Seq   uint64 // from 1
	Hash  uint64 // xxh3 of the spooled content, made by the agent once, the same in each repeat
}

// Batch is one batch as it travels: identity and body. Body is compressed as Codec says; RawLen is its length
// when decompressed. The bytes belong to the caller.
type Batch struct {
	Identity
	Codec  Codec
	RawLen int
	Body   []byte
}

// Codec says how a body is compressed.
type Codec uint8

// Codecs of a body.
const (
	CodecNone Codec = 0
	CodecZstd Codec = 1
)

// Label is a name and a value.
type Label struct{ Name, Value string }

// Labels are sorted by name, without doubles and without empty values.
type Labels []Label

// Get returns the value of the label called name, or "".
func (ls Labels) Get(name string) string {
	for i := range ls {
		if ls[i].Name == name {
			return ls[i].Value
		}
	}
	return ""
}

// Scrape is one time stamp and a column of values. IDs ascend strictly; len(IDs) == len(Values).
type Scrape struct {
	T      int64    // milliseconds since 1970
	IDs    []uint64 // series ids given out by the cluster
	Values []float64
}

// Samples are flat columns of accepted samples, as stores receive them. The three have one length. A series
// appears in ascending order of time unless the sample is late.
type Samples struct {
	IDs    []uint64
	T      []int64 // milliseconds since 1970
	Values []float64
}

// StreamKind tells lines of log files from events, which are structured lines.
type StreamKind uint8

// Kinds of streams.
const (
	StreamLog   StreamKind = 1
	StreamEvent StreamKind = 2
)

// Severity of a line; 0 when the source did not say and none was recognised.
type Severity uint8

// Severities, in the order of syslog turned around: greater is worse.
const (
	SeverityUnknown  Severity = 0
	SeverityDebug    Severity = 1
	SeverityInfo     Severity = 2
	SeverityNotice   Severity = 3
	SeverityWarning  Severity = 4
	SeverityError    Severity = 5
	SeverityCritical Severity = 6
)

// String returns the lower-case name used in queries, API and UI.
func (s Severity) String() string {
	switch s {
	case SeverityDebug:
		return "debug"
	case SeverityInfo:
		return "info"
	case SeverityNotice:
		return "notice"
	case SeverityWarning:
		return "warning"
	case SeverityError:
		return "error"
	case SeverityCritical:
		return "critical"
	}
	return "unknown"
}

// LogBatch is the content of a logs body: lines grouped by the stream they belong to.
type LogBatch struct{ Streams []LogStream }

// LogStream is a stream and some of its lines, in the order of the source. Its identity is Kind and Labels;
// the gateway sets the labels `agent` and `host` itself, the sender names `source` (file, journal, syslog ...)
// and `unit` or `file`.
type LogStream struct {
	Kind   StreamKind
	Labels Labels
	Lines  []LogLine
}

// LogLine is one line (or one joined multi-line record) without its line feed. Any bytes are allowed.
type LogLine struct {
	T        int64 // nanoseconds since 1970
	Severity Severity
	Text     []byte
	Fields   []Label // structured fields, sorted by name
}

// LogEntry is what one Raft entry brings to the log store, in order. The position of a line is (Index, its
// ordinal over all of Batches): unique, the same on every node and ascending in the order of the log.
type LogEntry struct {
	Index   uint64
	Batches []AcceptedLogs
}

// AcceptedLogs is one accepted batch: its body as it came (compressed as Codec says) and the same decoded. The body belongs to
// the state machine and is valid only until the sink's call returns; Batch may be kept, and nobody may change it.
type AcceptedLogs struct {
	Agent string
	Codec Codec
	Body  []byte
	Batch *LogBatch
}

// Limits of the wire, held by agent and gateway. Sizes are bytes unless said otherwise.
const (
	MaxBatchRaw       = 512 << 10 // a body decompressed: one batch always fits in one Raft entry
	MaxRequestBody    = 4 << 20   // a request of several batches, as it is on the wire
	MaxBatchesPerCall = 64
	MaxLine           = 256 << 10 // longer lines are cut by the agent, which says so in the field `truncated`
	MaxLabels         = 64        // labels of a series
	MaxStreamLabels   = 32
	MaxFields         = 64
	MaxLabelName      = 128
	MaxLabelValue     = 2048
	MaxSeriesPerCall  = 2000 // label sets in one registration
	MaxAgentID        = 64
	MaxStreams        = 256 // streams in one logs body
	// Bounds on what one body may unfold to in memory, since its length alone allows very small items.
	MaxBatchLines   = 32 << 10  // lines of all streams, 64 bytes each once decoded
	MaxBatchFields  = 128 << 10 // fields of all lines, 32 bytes each
	MaxBatchSamples = 64 << 10  // samples of all scrapes, 16 bytes each
	MaxBatchScrapes = 16 << 10  // time stamps of a metrics body, 56 bytes each
)
