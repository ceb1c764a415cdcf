package command

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
)

// Compare is a condition of a Txn: the key was last changed by the entry ModIndex, or is absent (0).
type Compare struct {
	Bucket, Key string
	ModIndex    uint64
}

// Op sets or deletes a key. Deleting one that is absent is no error.
type Op struct {
	Delete      bool
	Bucket, Key string
	Value       []byte
	Expires     int64 // log time in milliseconds since 1970 at which the key goes by itself; 0 never
}

// AuditRecord says who did what. Texts are UTF-8 of at most MaxAuditText bytes; Action must be given, the others may
// be empty. The state machine adds number, log time and hash (package audit).
type AuditRecord struct {
	Actor   string // user, token, node or agent
	Address string // the actor's, as the edge saw it
	Action  string // such as user.create
	Target  string // what it was done to
	Detail  []byte // a JSON value in UTF-8 of at most MaxAuditDetail bytes, or nothing
}

// Txn changes keys of the metadata and adds audit records, all or none: when every compare holds as the entry is
// applied. It may have audit records alone.
type Txn struct {
	Compares []Compare
	Ops      []Op
	Audit    []AuditRecord
}

const (
	opSet    = 0
	opDelete = 1
)

// NewMetaTxn applies a transaction. Names and sizes must keep to MaxBucket, MaxKey, MaxValue, MaxTxnOps and
// MaxTxnAudit, audit records to what AuditRecord says, and no operation may be on a bucket that the state machine
// writes itself, or all of it is refused as invalid.
func NewMetaTxn(t Txn) Command {
	dst := binary.AppendUvarint(nil, uint64(len(t.Compares)))
	for i := range t.Compares {
		dst = wire.AppendString(dst, t.Compares[i].Bucket)
		dst = wire.AppendString(dst, t.Compares[i].Key)
		dst = binary.AppendUvarint(dst, t.Compares[i].ModIndex)
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.Ops)))
	for i := range t.Ops {
		op := &t.Ops[i]
		if op.Delete {
			dst = append(dst, opDelete)
			dst = wire.AppendString(dst, op.Bucket)
			dst = wire.AppendString(dst, op.Key)
			continue
		}
		dst = append(dst, opSet)
		dst = wire.AppendString(dst, op.Bucket)
		dst = wire.AppendString(dst, op.Key)
		dst = wire.AppendString(dst, op.Value)
		dst = binary.AppendVarint(dst, op.Expires)
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.Audit)))
	for i := range t.Audit {
		a := &t.Audit[i]
		for _, s := range [...]string{a.Actor, a.Address, a.Action, a.Target} {
			dst = wire.AppendString(dst, s)
		}
		dst = wire.AppendString(dst, a.Detail)
	}
	return Command{TypeMetaTxn, bodyVersion, dst}
}

// DecodeMetaTxn is the inverse of NewMetaTxn. Values and details point into the body; the latter are not looked
// into.
func DecodeMetaTxn(c Command) (Txn, error) {
	var t Txn
	r, err := expect(c, TypeMetaTxn)
	if err != nil {
		return t, err
	}
	if n := r.Count("count of compares", MaxTxnOps, 3); n > 0 {
		t.Compares = make([]Compare, n)
		for i := range t.Compares {
			t.Compares[i].Bucket, t.Compares[i].Key = readName(&r)
			t.Compares[i].ModIndex = r.Uvarint("index to compare with")
		}
	}
	if n := r.Count("count of operations", MaxTxnOps, 3); n > 0 {
		t.Ops = make([]Op, n)
		for i := range t.Ops {
			op := &t.Ops[i]
			code := r.Byte("operation")
			op.Bucket, op.Key = readName(&r)
			switch code {
			case opDelete:
				op.Delete = true
			case opSet:
				op.Value = r.Prefixed(MaxValue, "value")
				op.Expires = r.Varint("expiry")
			default:
				r.Fail("unknown operation")
			}
		}
	}
	if n := r.Count("count of audit records", MaxTxnAudit, 5); n > 0 {
		t.Audit = make([]AuditRecord, n)
		for i := range t.Audit {
			readAudit(&r, &t.Audit[i])
		}
	}
	return t, checked(&r, TypeMetaTxn)
}

func readAudit(r *wire.Reader, a *AuditRecord) {
	text := func(what string) string {
		s := r.Text(MaxAuditText, what)
		if !utf8.ValidString(s) {
			r.Fail(what + " that is not UTF-8")
		}
		return s
	}
	a.Actor, a.Address, a.Action, a.Target = text("actor"), text("address"), text("action"), text("target")
	if r.Err() == nil && a.Action == "" {
		r.Fail("audit record without an action")
	}
	if d := r.Prefixed(MaxAuditDetail, "detail of an audit record"); len(d) > 0 {
		a.Detail = d
	}
}

func readName(r *wire.Reader) (bucket, key string) {
	bucket = r.Text(MaxBucket, "bucket")
	key = r.Text(MaxKey, "key")
	if r.Err() == nil && (bucket == "" || key == "" || strings.IndexByte(bucket, 0) >= 0) {
		r.Fail("empty or invalid name of a bucket or key")
	}
	return bucket, key
}
