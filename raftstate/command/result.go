package command

import (
	"encoding/binary"
	"fmt"

	"github.com/triward/triward/agent/wire"
)

// Status is the outcome of a command.
type Status uint8

// Statuses of results. Numbers are part of the forwarding protocol.
const (
	StatusOK           Status = 0
	StatusDuplicate    Status = 1 // the batch was applied before; Expected is the last sequence applied
	StatusGap          Status = 2 // a batch before this one is missing; Expected is the sequence to send
	StatusUnknownIDs   Status = 3 // IDs holds up to MaxUnknownIDs ids that are not series of the agent; not applied
	StatusEpochClosed  Status = 4 // the epoch was closed by a later one; not applied
	StatusCloned       Status = 5 // the last sequence came again with other content; not applied
	StatusConflict     Status = 6 // a compare of a MetaTxn failed; Detail names the first one
	StatusInvalid      Status = 7 // the command cannot be applied; Detail says why; nothing changed
	StatusLimit        Status = 8 // a limit stands against it; Detail names the limit; nothing changed
	StatusUnknownEpoch Status = 9 // the agent has not opened this epoch; not applied
)

// String returns the name used in the agents' protocol.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusDuplicate:
		return "duplicate"
	case StatusGap:
		return "gap"
	case StatusUnknownIDs:
		return "unknown_ids"
	case StatusEpochClosed:
		return "epoch_closed"
	case StatusCloned:
		return "cloned"
	case StatusConflict:
		return "conflict"
	case StatusInvalid:
		return "invalid"
	case StatusLimit:
		return "limit"
	case StatusUnknownEpoch:
		return "unknown_epoch"
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Bounds of a result.
const (
	MaxItemErrors = 16  // items listed; the counts are exact all the same
	MaxUnknownIDs = 64  // ids listed with StatusUnknownIDs
	MaxDetail     = 512 // bytes of Detail and of a Reason
	// MaxResults bounds the results in one binary form: those of one entry.
	MaxResults = MaxCommands
)

// ItemError says why an item of a command was refused.
type ItemError struct {
	// Item counts from 0: of a batch the sample or line over all its scrapes or streams, of RegisterSeries the
	// label set, of Heartbeats the heartbeat.
	Item   uint32 `json:"item"`
	Reason string `json:"reason"`
}

// Result is the outcome of one command. It is the same on every node.
type Result struct {
	Status   Status
	Expected uint64 // see Status
	Index    uint64 // index of the entry in the log; 0 as long as it is not known
	// Items of a batch by outcome. For CollectSeries: Accepted were removed, Rejected are still in use.
	Accepted, Duplicates, Rejected uint32
	Items                          []ItemError
	// IDs holds for RegisterSeries the id of each label set in the order given, for StatusUnknownIDs the ids.
	IDs    []uint64
	Detail string
}

// Refuse lists item as refused and counts it.
func (r *Result) Refuse(item int, reason string) {
	r.Rejected++
	if len(r.Items) < MaxItemErrors {
		r.Items = append(r.Items, ItemError{Item: uint32(item), Reason: reason})
	}
}

// Append appends the binary form of the result to dst.
func (r *Result) Append(dst []byte) []byte {
	dst = append(dst, byte(r.Status))
	for _, v := range [...]uint64{r.Expected, r.Index, uint64(r.Accepted), uint64(r.Duplicates), uint64(r.Rejected)} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.Items)))
	for i := range r.Items {
		dst = binary.AppendUvarint(dst, uint64(r.Items[i].Item))
		dst = wire.AppendString(dst, r.Items[i].Reason)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.IDs)))
	var last uint64
	for _, id := range r.IDs {
		dst = binary.AppendVarint(dst, int64(id-last))
		last = id
	}
	return wire.AppendString(dst, r.Detail)
}

// AppendResults appends the binary form of several results to dst.
func AppendResults(dst []byte, rs []Result) []byte {
	dst = append(dst, bodyVersion)
	dst = binary.AppendUvarint(dst, uint64(len(rs)))
	for i := range rs {
		dst = rs[i].Append(dst)
	}
	return dst
}

// DecodeResults reads what AppendResults wrote. Nothing in the results points into b.
func DecodeResults(b []byte) ([]Result, error) {
	c := wire.NewReader(b, ErrMalformed)
	if v := c.Byte("version"); c.Err() == nil && v != bodyVersion {
		return nil, fmt.Errorf("%w: results of version %d, this program knows %d", ErrMalformed, v, bodyVersion)
	}
	n := c.Count("count of results", MaxResults, 9)
	if c.Err() != nil {
		return nil, c.Err()
	}
	rs := make([]Result, n)
	for i := range rs {
		readResult(&c, &rs[i])
		if c.Err() != nil {
			return nil, fmt.Errorf("result %d: %w", i, c.Err())
		}
	}
	if err := c.End("the last result"); err != nil {
		return nil, err
	}
	return rs, nil
}

func readResult(r *wire.Reader, res *Result) {
	res.Status = Status(r.Byte("status"))
	if res.Status > StatusUnknownEpoch {
		r.Fail("unknown status")
	}
	res.Expected = r.Uvarint("expected")
	res.Index = r.Uvarint("index")
	res.Accepted = uint32(r.Number("accepted", 1<<32-1))
	res.Duplicates = uint32(r.Number("duplicates", 1<<32-1))
	res.Rejected = uint32(r.Number("rejected", 1<<32-1))
	if n := r.Count("count of items", MaxItemErrors, 2); n > 0 {
		res.Items = make([]ItemError, n)
		for i := range res.Items {
			res.Items[i].Item = uint32(r.Number("item", 1<<32-1))
			res.Items[i].Reason = r.Text(MaxDetail, "reason")
		}
	}
	if n := r.Count("count of ids", wire.MaxSeriesPerCall, 1); n > 0 {
		res.IDs = make([]uint64, n)
		var last uint64
		for i := range res.IDs {
			last += uint64(r.Varint("id"))
			res.IDs[i] = last
		}
	}
	res.Detail = r.Text(MaxDetail, "detail")
}

// Bounded cuts s to what a Detail or Reason may hold.
func Bounded(s string) string {
	if len(s) > MaxDetail {
		return s[:MaxDetail-3] + "..."
	}
	return s
}
