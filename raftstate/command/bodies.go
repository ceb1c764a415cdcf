package command

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/triward/triward/agent/wire"
)

// Kind tells apart what retention and digests are kept of.
type Kind uint8

// Kinds of data.
const (
	KindMetrics Kind = 1
	KindLogs    Kind = 2
	KindEvents  Kind = 3
)

// Kinds lists the kinds in the order of their numbers.
var Kinds = [...]Kind{KindMetrics, KindLogs, KindEvents}

// String returns the name of the kind as shown to operators.
func (k Kind) String() string {
	switch k {
	case KindMetrics:
		return "metrics"
	case KindLogs:
		return "logs"
	case KindEvents:
		return "events"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Valid reports whether k is one of the kinds of this format.
func (k Kind) Valid() bool { return k >= KindMetrics && k <= KindEvents }

// Bounds of what commands carry, in bytes unless said otherwise.
const (
	MaxNodeID      = 128
	MaxBucket      = 64        // name of a bucket of metadata
	MaxKey         = 512       // key in a bucket
	MaxValue       = 256 << 10 // value of a key
	MaxTxnOps      = 256       // compares, and operations, of one MetaTxn
	MaxTxnAudit    = 16        // audit records of one MetaTxn
	MaxAuditText   = 512       // each text of an audit record
	MaxAuditDetail = 8 << 10   // detail of an audit record
	MaxHeartbeats  = 4096      // heartbeats in one command
	MaxStatusBody  = 16 << 10  // JSON of one heartbeat
	MaxCollect     = 65536     // series in one CollectSeries
	MaxSeriesBytes = 2 << 20   // label sets of one RegisterSeries written out in full
)

func expect(c Command, t Type) (wire.Reader, error) {
	if c.Type&^Ignorable != t || c.Version != bodyVersion {
		return wire.Reader{}, fmt.Errorf("%w: %s version %d is no %s version %d", ErrMalformed, c.Type, c.Version, t, bodyVersion)
	}
	return wire.NewReader(c.Body, ErrMalformed), nil
}

func checked(r *wire.Reader, t Type) error {
	if err := r.End("the body"); err != nil {
		return fmt.Errorf("%s: %w", t, err)
	}
	return nil
}

// NewSetFormat raises the format of the cluster's state to n.
func NewSetFormat(n uint32) Command {
	return Command{TypeSetFormat, bodyVersion, binary.AppendUvarint(nil, uint64(n))}
}

// DecodeSetFormat is the inverse of NewSetFormat.
func DecodeSetFormat(c Command) (uint32, error) {
	r, err := expect(c, TypeSetFormat)
	if err != nil {
		return 0, err
	}
	n := r.Number("format", 1<<32-1)
	return uint32(n), checked(&r, TypeSetFormat)
}

// NewTick moves the log time on while nothing else does; node names the leader that proposed it.
func NewTick(node string) Command {
	return Command{TypeTick, bodyVersion, wire.AppendString(nil, node)}
}

// DecodeTick is the inverse of NewTick.
func DecodeTick(c Command) (node string, err error) {
	r, err := expect(c, TypeTick)
	if err != nil {
		return "", err
	}
	node = r.Text(MaxNodeID, "node")
	return node, checked(&r, TypeTick)
}

// Batch is an agent's batch and the version of the pipelines' configuration it went through.
type Batch struct {
	wire.Batch
	ConfigVersion uint64
}

// NewBatch applies a batch. Its body is copied.
func NewBatch(b wire.Batch, configVersion uint64) Command {
	dst := make([]byte, 0, len(b.Body)+len(b.Agent)+64)
	dst = wire.AppendString(dst, b.Agent)
	dst = append(dst, b.Epoch[:]...)
	dst = append(dst, byte(b.Lane))
	dst = binary.AppendUvarint(dst, b.Seq)
	dst = binary.LittleEndian.AppendUint64(dst, b.Hash)
	dst = binary.AppendUvarint(dst, configVersion)
	dst = append(dst, byte(b.Codec))
	dst = binary.AppendUvarint(dst, uint64(b.RawLen))
	return Command{TypeBatch, bodyVersion, append(dst, b.Body...)}
}

// DecodeBatch is the inverse of NewBatch. The batch's body points into that of the command and is not looked
// into.
func DecodeBatch(c Command) (Batch, error) {
	var b Batch
	r, err := expect(c, TypeBatch)
	if err != nil {
		return b, err
	}
	b.Agent = r.Text(wire.MaxAgentID, "agent")
	copy(b.Epoch[:], r.Bytes(len(b.Epoch), "epoch"))
	b.Lane = wire.Lane(r.Byte("lane"))
	b.Seq = r.Uvarint("sequence")
	b.Hash = r.Uint64("hash")
	b.ConfigVersion = r.Uvarint("configuration version")
	b.Codec = wire.Codec(r.Byte("codec"))
	b.RawLen = int(r.Number("length decompressed", wire.MaxBatchRaw))
	switch {
	case r.Err() != nil:
	case b.Agent == "":
		r.Fail("empty agent")
	case !b.Lane.Valid():
		r.Fail("unknown lane")
	case b.Seq == 0:
		r.Fail("sequence 0")
	case b.Codec > wire.CodecZstd:
		r.Fail("unknown codec")
	}
	b.Body = r.Bytes(r.Left(), "body")
	return b, checked(&r, TypeBatch)
}

// DeliverFlags say how a Deliver is applied.
type DeliverFlags uint8

// RepeatsDropped lets a line that is in the window of recent lines already (or twice in the body) be dropped and
// counted as a duplicate; accepted lines are put there. It is for senders that stamp finely and repeat what they do
// not know the outcome of: of others two equal lines are data (DESIGN D18). Samples need no flag, a series holds one
// at a time.
const RepeatsDropped DeliverFlags = 1

const knownDeliverFlags = RepeatsDropped

// Deliver is a batch of a sender that has no sequence of its own. Its body is that of a batch of the lane, and is
// applied whenever it comes.
type Deliver struct {
	Source        string    // owns the series and streams as an agent does, bounded as an agent's id is
	Lane          wire.Lane // metrics, logs or events
	Flags         DeliverFlags
	ConfigVersion uint64 // of the pipelines' configuration that the body went through
	Codec         wire.Codec
	RawLen        int // of the body decompressed
	Body          []byte
}

// NewDeliver applies a batch without a sequence. Its body is copied.
func NewDeliver(d Deliver) Command {
	dst := make([]byte, 0, len(d.Body)+len(d.Source)+32)
	dst = wire.AppendString(dst, d.Source)
	dst = append(dst, byte(d.Lane), byte(d.Flags))
	dst = binary.AppendUvarint(dst, d.ConfigVersion)
	dst = append(dst, byte(d.Codec))
	dst = binary.AppendUvarint(dst, uint64(d.RawLen))
	return Command{TypeDeliver, bodyVersion, append(dst, d.Body...)}
}

// DecodeDeliver is the inverse of NewDeliver. The body points into that of the command and is not looked into.
func DecodeDeliver(c Command) (Deliver, error) {
	var d Deliver
	r, err := expect(c, TypeDeliver)
	if err != nil {
		return d, err
	}
	d.Source = r.Text(wire.MaxAgentID, "source")
	d.Lane = wire.Lane(r.Byte("lane"))
	d.Flags = DeliverFlags(r.Byte("flags"))
	d.ConfigVersion = r.Uvarint("configuration version")
	d.Codec = wire.Codec(r.Byte("codec"))
	d.RawLen = int(r.Number("length decompressed", wire.MaxBatchRaw))
	switch {
	case r.Err() != nil:
	case d.Source == "":
		r.Fail("empty source")
	case d.Lane != wire.LaneMetrics && d.Lane != wire.LaneLogs && d.Lane != wire.LaneEvents:
		r.Fail("lane that takes no deliveries")
	case d.Flags&^knownDeliverFlags != 0:
		r.Fail("unknown flags")
	case d.Codec > wire.CodecZstd:
		r.Fail("unknown codec")
	}
	d.Body = r.Bytes(r.Left(), "body")
	return d, checked(&r, TypeDeliver)
}

// NewForgetAgent makes the cluster forget an agent that has no series any more: its epochs and lanes. Its id must never
// be given out again.
func NewForgetAgent(agent string) Command {
	return Command{TypeForgetAgent, bodyVersion, wire.AppendString(nil, agent)}
}

// DecodeForgetAgent is the inverse of NewForgetAgent.
func DecodeForgetAgent(c Command) (agent string, err error) {
	r, err := expect(c, TypeForgetAgent)
	if err != nil {
		return "", err
	}
	if agent = r.Text(wire.MaxAgentID, "agent"); r.Err() == nil && agent == "" {
		r.Fail("empty agent")
	}
	return agent, checked(&r, TypeForgetAgent)
}

// OpenEpoch closes the agent's epoch and opens another one.
type OpenEpoch struct {
	Agent string
	Epoch wire.Epoch
}

// NewOpenEpoch opens epoch e for the agent and closes the one before it.
func NewOpenEpoch(agent string, e wire.Epoch) Command {
	return Command{TypeOpenEpoch, bodyVersion, append(wire.AppendString(nil, agent), e[:]...)}
}

// DecodeOpenEpoch is the inverse of NewOpenEpoch.
func DecodeOpenEpoch(c Command) (OpenEpoch, error) {
	var o OpenEpoch
	r, err := expect(c, TypeOpenEpoch)
	if err != nil {
		return o, err
	}
	if o.Agent = r.Text(wire.MaxAgentID, "agent"); r.Err() == nil && o.Agent == "" {
		r.Fail("empty agent")
	}
	copy(o.Epoch[:], r.Bytes(len(o.Epoch), "epoch"))
	return o, checked(&r, TypeOpenEpoch)
}

// NewCollectSeries removes series that are no longer in use from the dictionary.
func NewCollectSeries(ids []uint64) Command {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	dst := binary.AppendUvarint(nil, uint64(len(ids)))
	var last uint64
	for _, id := range ids {
		dst = binary.AppendUvarint(dst, id-last)
		last = id
	}
	return Command{TypeCollectSeries, bodyVersion, dst}
}

// DecodeCollectSeries is the inverse of NewCollectSeries. The ids ascend.
func DecodeCollectSeries(c Command) ([]uint64, error) {
	r, err := expect(c, TypeCollectSeries)
	if err != nil {
		return nil, err
	}
	ids := make([]uint64, r.Count("count of ids", MaxCollect, 1))
	var last uint64
	for i := range ids {
		d := r.Uvarint("id")
		if d == 0 || last+d < last {
			r.Fail("ids that do not ascend")
		}
		last += d
		ids[i] = last
	}
	return ids, checked(&r, TypeCollectSeries)
}

// Heartbeat is what an agent says of itself. Status is a JSON value of at most MaxStatusBody bytes.
type Heartbeat struct {
	Agent  string
	Status json.RawMessage
}

// NewHeartbeats records heartbeats of several agents at the log time of the entry.
func NewHeartbeats(hs []Heartbeat) Command {
	dst := binary.AppendUvarint(nil, uint64(len(hs)))
	for i := range hs {
		dst = wire.AppendString(dst, hs[i].Agent)
		dst = wire.AppendString(dst, hs[i].Status)
	}
	return Command{TypeHeartbeats, bodyVersion, dst}
}

// DecodeHeartbeats is the inverse of NewHeartbeats. Statuses point into the body and are not looked into.
func DecodeHeartbeats(c Command) ([]Heartbeat, error) {
	r, err := expect(c, TypeHeartbeats)
	if err != nil {
		return nil, err
	}
	hs := make([]Heartbeat, r.Count("count of heartbeats", MaxHeartbeats, 2))
	for i := range hs {
		if hs[i].Agent = r.Text(wire.MaxAgentID, "agent"); r.Err() == nil && hs[i].Agent == "" {
			r.Fail("empty agent")
		}
		hs[i].Status = r.Prefixed(MaxStatusBody, "status")
	}
	return hs, checked(&r, TypeHeartbeats)
}

// CutReason says why data was cut.
type CutReason uint8

// Reasons of cuts.
const (
	CutAge      CutReason = 0 // it is older than the retention
	CutSize     CutReason = 1 // it took more room than it may
	CutOperator CutReason = 2 // an operator asked for it
)

// String returns the name of the reason as it is kept and shown.
func (r CutReason) String() string {
	switch r {
	case CutAge:
		return "age"
	case CutSize:
		return "size"
	case CutOperator:
		return "operator"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// RetentionCut makes data of a kind that is older than Floor invisible for good.
type RetentionCut struct {
	Kind   Kind
	Floor  int64 // milliseconds since 1970; data before it goes
	Reason CutReason
}

// NewRetentionCut raises the retention floor of a kind to floor (milliseconds since 1970).
func NewRetentionCut(kind Kind, floor int64, reason CutReason) Command {
	return Command{TypeRetentionCut, bodyVersion, binary.AppendVarint([]byte{byte(kind), byte(reason)}, floor)}
}

// DecodeRetentionCut is the inverse of NewRetentionCut.
func DecodeRetentionCut(c Command) (RetentionCut, error) {
	var cut RetentionCut
	r, err := expect(c, TypeRetentionCut)
	if err != nil {
		return cut, err
	}
	if cut.Kind = Kind(r.Byte("kind")); r.Err() == nil && !cut.Kind.Valid() {
		r.Fail("unknown kind")
	}
	if cut.Reason = CutReason(r.Byte("reason")); r.Err() == nil && cut.Reason > CutOperator {
		r.Fail("unknown reason")
	}
	cut.Floor = r.Varint("floor")
	return cut, checked(&r, TypeRetentionCut)
}
