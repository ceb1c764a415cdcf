// Package audit is the chain of audit records: the form in which the state machine keeps them, the hash that binds
// each to the one before it, and the check that none was edited, lost or moved.
//
// Records are numbered from 1. The oldest are forgotten when there are too many; the chain is whole from the oldest
// that is kept up to the head, which names the last. A chain alone cannot tell that somebody wrote it anew with its
// head: for that a head has to be kept, or signed, elsewhere.
//
// Everything here is a pure function, the same on every node, and part of the format (docs/formats.md). The package
// reads and writes no state and must not import any.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// Where the state machine keeps the chain in the metadata. Nothing else may write there.
const (
	BucketRecords = "audit"      // records in the form of AppendJSON, each under its Key
	BucketHead    = "audit_head" // the head in the form of its AppendJSON under KeyHead; absent before the first record
	KeyHead       = "head"
)

// Key returns the key of a record: its number in 20 digits.
func Key(seq uint64) string { return fmt.Sprintf("%020d", seq) }

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// String returns 64 hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// UnmarshalText reads what String returns.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != 2*len(h) {
		return fmt.Errorf("hash of %d digits, want %d", len(text), 2*len(h))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// Record is one record of the chain.
type Record struct {
	Seq   uint64 // from 1, without gaps
	Index uint64 // of the entry of the log that brought it
	Time  int64  // log time of that entry, milliseconds since 1970
	command.AuditRecord
	Prev Hash // of the record before; zero for the first
	Hash Hash // of this one, Prev included
}

const chainVersion = 1

// Sum returns what Hash must be: the SHA-256 of
//
//	version byte (1), Prev (32 bytes), Seq, Index and Time (8 bytes each, little endian),
//	Actor, Address, Action, Target and Detail (each its length as a uvarint, then its bytes)
func (r *Record) Sum() Hash {
	b := make([]byte, 0, 128+len(r.Actor)+len(r.Address)+len(r.Action)+len(r.Target)+len(r.Detail))
	b = append(append(b, chainVersion), r.Prev[:]...)
	for _, v := range [...]uint64{r.Seq, r.Index, uint64(r.Time)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	for _, s := range [...]string{r.Actor, r.Address, r.Action, r.Target} {
		b = wire.AppendString(b, s)
	}
	return sha256.Sum256(wire.AppendString(b, r.Detail))
}

// AppendJSON appends the record as it is kept, to dst: one JSON object without white space of its own, with the
// members seq, index, time, actor, address, action, target, detail (left out when there is none), prev and hash in
// this order. Texts are UTF-8, of which only the quotation mark, the backslash and what is below U+0020 are escaped;
// detail stands as it was given.
func (r *Record) AppendJSON(dst []byte) []byte {
	dst = strconv.AppendUint(append(dst, `{"seq":`...), r.Seq, 10)
	dst = strconv.AppendUint(append(dst, `,"index":`...), r.Index, 10)
	dst = strconv.AppendInt(append(dst, `,"time":`...), r.Time, 10)
	dst = appendText(append(dst, `,"actor":`...), r.Actor)
	dst = appendText(append(dst, `,"address":`...), r.Address)
	dst = appendText(append(dst, `,"action":`...), r.Action)
	dst = appendText(append(dst, `,"target":`...), r.Target)
	if len(r.Detail) > 0 {
		dst = append(append(dst, `,"detail":`...), r.Detail...)
	}
	dst = append(append(dst, `,"prev":"`...), r.Prev.String()...)
	dst = append(append(dst, `","hash":"`...), r.Hash.String()...)
	return append(dst, `"}`...)
}

// appendText writes a JSON string. The library's own form of it is not the same in all versions.
func appendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < 0x20:
			dst = fmt.Appendf(dst, `\u%04x`, c)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// ParseRecord reads a record that AppendJSON wrote, and nothing else: what says the same in another way is refused.
// Its hash is not checked.
func ParseRecord(b []byte) (Record, error) {
	var in struct {
		Seq     uint64          `json:"seq"`
		Index   uint64          `json:"index"`
		Time    int64           `json:"time"`
		Actor   string          `json:"actor"`
		Address string          `json:"address"`
		Action  string          `json:"action"`
		Target  string          `json:"target"`
		Detail  json.RawMessage `json:"detail"`
		Prev    Hash            `json:"prev"`
		Hash    Hash            `json:"hash"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return Record{}, fmt.Errorf("audit record: %w", err)
	}
	r := Record{
		Seq: in.Seq, Index: in.Index, Time: in.Time,
		AuditRecord: command.AuditRecord{
			Actor: in.Actor, Address: in.Address, Action: in.Action, Target: in.Target, Detail: in.Detail,
		},
		Prev: in.Prev, Hash: in.Hash,
	}
	if !bytes.Equal(r.AppendJSON(nil), b) {
		return Record{}, fmt.Errorf("audit record %d: not in the form in which records are kept", r.Seq)
	}
	return r, nil
}

// Head says what is kept of the chain. The zero value is that of no record at all.
type Head struct {
	First uint64 `json:"first"` // the oldest record kept
	Seq   uint64 `json:"seq"`   // the last record
	Bytes int64  `json:"bytes"` // of the records kept, in the form of AppendJSON
	Hash  Hash   `json:"hash"`  // of the last record
}

// Next makes the record that follows the head and moves the head on to it. The strings and bytes of a are shared.
// It returns the record and the form in which it is kept.
func (h *Head) Next(index uint64, time int64, a command.AuditRecord) (Record, []byte) {
	r := Record{Seq: h.Seq + 1, Index: index, Time: time, AuditRecord: a, Prev: h.Hash}
	r.Hash = r.Sum()
	b := r.AppendJSON(nil)
	h.First = max(h.First, 1)
	h.Seq, h.Hash = r.Seq, r.Hash
	h.Bytes += int64(len(b))
	return r, b
}

// AppendJSON appends the head as it is kept, to dst: {"first":1,"seq":3,"bytes":900,"hash":"64 hexadecimal digits"}.
func (h *Head) AppendJSON(dst []byte) []byte {
	return fmt.Appendf(dst, `{"first":%d,"seq":%d,"bytes":%d,"hash":"%s"}`, h.First, h.Seq, h.Bytes, h.Hash)
}

// ParseHead reads a head that AppendJSON wrote. No bytes are the head of no record.
func ParseHead(b []byte) (Head, error) {
	var h Head
	if len(b) == 0 {
		return h, nil
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return Head{}, fmt.Errorf("head of the audit chain: %w", err)
	}
	return h, nil
}
