// Package auditlog reads the replicated audit log: pages of it for people, all of it as a file that proves itself, and
// the check of either. What the chain of records is and how it is verified says package raftstate/audit; this package
// never writes.
package auditlog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sort"
	"strconv"
	"strings"

	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/meta"
)

// State is the metadata of a node, or of a backup.
type State interface {
	Get(bucket, key string) (meta.Value, bool)
}

// ChainHead says what a node keeps of the chain.
type ChainHead struct {
	First uint64 `json:"first"` // the oldest record kept; 0 for none
	Seq   uint64 `json:"seq"`   // the last record
	Bytes int64  `json:"bytes"` // of the records kept
	Hash  string `json:"hash"`  // of the last record
}

func headOf(h audit.Head) ChainHead { return ChainHead{h.First, h.Seq, h.Bytes, h.Hash.String()} }

func (h ChainHead) chain() (audit.Head, error) {
	out := audit.Head{First: h.First, Seq: h.Seq, Bytes: h.Bytes}
	if err := out.Hash.UnmarshalText([]byte(h.Hash)); err != nil {
		return out, fmt.Errorf("head of the audit chain: %w", err)
	}
	return out, nil
}

// ChainRecord is one record of the log.
type ChainRecord struct {
	Seq     uint64          `json:"seq"`
	Index   uint64          `json:"index"` // of the entry of the log that brought it
	Time    int64           `json:"time"`  // log time, milliseconds since 1970
	Actor   string          `json:"actor"`
	Address string          `json:"address"`
	Action  string          `json:"action"`
	Target  string          `json:"target"`
	Detail  json.RawMessage `json:"detail,omitempty"`
	Prev    string          `json:"prev"`
	Hash    string          `json:"hash"`
}

// Query asks for records. Zero fields ask for all.
type Query struct {
	Actor  string // is a part of the actor, whatever the case
	Action string // is the action, or its beginning up to a dot: `user` is user.create and user.role
	Target string // is a part of the target, whatever the case
	Start  int64  // from this log time on, milliseconds
	End    int64  // before this log time; 0 for no end
	Limit  int    // how many at most; 100 when 0
	Before uint64 // only records with a smaller number: where the page before ended
}

// ChainPage is some records, the newest first.
type ChainPage struct {
	Records []ChainRecord `json:"records"`
	// Next is Before of the page that follows, 0 when there is none. A page may be short or empty and not the last:
	// only so many records are looked at for one.
	Next uint64    `json:"next"`
	Head ChainHead `json:"head"`
}

// lookAt bounds how many records are looked at for one page.
const lookAt = 20_000

// Log is the audit log as a node holds it. It is safe for concurrent use.
type Log struct{ state State }

// New returns the log of the state.
func New(state State) *Log { return &Log{state} }

func (l *Log) head() (audit.Head, error) {
	v, _ := l.state.Get(audit.BucketHead, audit.KeyHead)
	return audit.ParseHead(v.Data)
}

func (l *Log) record(seq uint64) (audit.Record, bool, error) {
	v, ok := l.state.Get(audit.BucketRecords, audit.Key(seq))
	if !ok {
		return audit.Record{}, false, nil
	}
	r, err := audit.ParseRecord(v.Data)
	return r, err == nil, err
}

// Query returns the newest records that fit.
func (l *Log) Query(ctx context.Context, q Query) (ChainPage, error) {
	head, err := l.head()
	if err != nil {
		return ChainPage{}, err
	}
	page := ChainPage{Records: []ChainRecord{}, Head: headOf(head)}
	if q.Limit <= 0 {
		q.Limit = 100
	}
	last := head.Seq
	if q.Before > 0 {
		last = min(last, q.Before-1)
	}
	if q.End > 0 {
		last = min(last, l.before(head, q.End))
	}
	actor, target := strings.ToLower(q.Actor), strings.ToLower(q.Target)
	for seq, looked := last, 0; seq >= max(head.First, 1); seq-- {
		if looked++; looked > lookAt || len(page.Records) == q.Limit {
			page.Next = seq + 1
			break
		}
		if looked%1000 == 0 && ctx.Err() != nil {
			return ChainPage{}, ctx.Err()
		}
		r, ok, err := l.record(seq)
		if err != nil {
			return ChainPage{}, err
		}
		if !ok || r.Time < q.Start { // forgotten meanwhile, or too old: as is all before it
			break
		}
		if within(r.Actor, actor) && within(r.Target, target) && isAction(r.Action, q.Action) {
			page.Records = append(page.Records, shown(&r))
		}
	}
	return page, nil
}

// before is the number of the last record before the log time, which never goes back from one record to the next.
func (l *Log) before(head audit.Head, at int64) uint64 {
	first := max(head.First, 1)
	n := sort.Search(int(head.Seq-first+1), func(i int) bool {
		r, ok, err := l.record(first + uint64(i))
		return err == nil && ok && r.Time >= at
	})
	return first + uint64(n) - 1
}

func within(s, part string) bool { return part == "" || strings.Contains(strings.ToLower(s), part) }

func isAction(action, asked string) bool {
	return asked == "" || action == asked || strings.HasPrefix(action, strings.TrimSuffix(asked, ".")+".")
}

func shown(r *audit.Record) ChainRecord {
	return ChainRecord{
		Seq: r.Seq, Index: r.Index, Time: r.Time, Actor: r.Actor, Address: r.Address, Action: r.Action, Target: r.Target,
		Detail: r.Detail, Prev: r.Prev.String(), Hash: r.Hash.String(),
	}
}

// ExportOrigin says where an export comes from.
type ExportOrigin struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	LogTime int64  `json:"log_time"` // milliseconds since 1970
}

// exportVersion is the version of the form of an export.
const exportVersion = 1

// exportHead is the first line of an export; the records follow, each in a line, as they are kept.
type exportHead struct {
	Version int `json:"triward_audit"`
	ExportOrigin
	Head ChainHead `json:"head"`
}

// exportTries is how often an export begins anew because its oldest record was forgotten before it was read.
const exportTries = 10

// Export writes all records that are kept as JSON lines, the oldest first, after a line that names the head. It calls
// begin when it is sure to begin, for where to.
func (l *Log) Export(ctx context.Context, from ExportOrigin, begin func() io.Writer) error {
	var head audit.Head
	var first meta.Value
	for tried := 0; ; tried++ {
		var err error
		if head, err = l.head(); err != nil {
			return err
		}
		ok := head.Seq == 0
		if !ok {
			first, ok = l.state.Get(audit.BucketRecords, audit.Key(head.First))
		}
		if ok {
			break
		}
		if tried == exportTries {
			return fmt.Errorf("audit record %d is missing", head.First)
		}
	}
	w := bufio.NewWriter(begin())
	line, err := json.Marshal(exportHead{exportVersion, from, headOf(head)})
	if err != nil {
		return fmt.Errorf("encode head of the export: %w", err)
	}
	_, _ = w.Write(append(line, '\n')) // Flush tells of the first error
	for seq := head.First; seq <= head.Seq && head.Seq > 0; seq++ {
		v, ok := first, true
		if seq > head.First {
			v, ok = l.state.Get(audit.BucketRecords, audit.Key(seq))
		}
		if !ok {
			return fmt.Errorf("audit record %d is missing; `triward audit verify` tells what is", seq)
		}
		_, _ = w.Write(v.Data)
		if err := w.WriteByte('\n'); err != nil {
			return fmt.Errorf("write audit export: %w", err)
		}
		if seq%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write audit export: %w", err)
	}
	return nil
}

// ChainVerdict is what a check of the chain found.
type ChainVerdict struct {
	OK   bool      `json:"ok"`
	Head ChainHead `json:"head"`
	// Seq is the first record that does not fit, Fault what is wrong with it.
	Seq   uint64 `json:"seq,omitempty"`
	Fault string `json:"fault,omitempty"`
	// Origin is that of an export; nil for others.
	Origin *ExportOrigin `json:"origin,omitempty"`
	// Expected says how a head that was kept elsewhere compares; absent when none was given.
	Expected string `json:"expected,omitempty"`
}

// Point is a record that somebody noted elsewhere, by number and hash: proof against a chain that was written anew.
type Point struct {
	Seq  uint64
	Hash string
}

// ParsePoint reads NUMBER:HASH as `triward audit verify` prints it.
func ParsePoint(s string) (Point, error) {
	number, hash, ok := strings.Cut(s, ":")
	seq, err := strconv.ParseUint(number, 10, 64)
	var h audit.Hash
	if !ok || err != nil || seq == 0 || h.UnmarshalText([]byte(hash)) != nil {
		return Point{}, fmt.Errorf("%.100q: want NUMBER:HASH as `triward audit verify` prints it", s)
	}
	return Point{seq, h.String()}, nil
}

// What ChainVerdict.Expected says.
const (
	ExpectedHeld   = "held"      // the record has that hash
	ExpectedDiffer = "differs"   // it has another: the chain was written anew
	ExpectedGone   = "forgotten" // it is older than what is kept
	ExpectedAhead  = "not yet"   // the chain does not reach that far
)

// verify checks the chain and looks for the point, when there is one, on the way.
func verify(head audit.Head, records iter.Seq[[]byte], point *Point) (ChainVerdict, error) {
	v := ChainVerdict{OK: true, Head: headOf(head)}
	if point != nil {
		switch {
		case point.Seq < max(head.First, 1):
			v.Expected = ExpectedGone
		case point.Seq > head.Seq:
			v.Expected, v.OK = ExpectedAhead, false
		default:
			v.Expected, v.OK = ExpectedDiffer, false
		}
	}
	watched := func(yield func([]byte) bool) {
		for b := range records {
			if point != nil && v.Expected == ExpectedDiffer {
				if r, err := audit.ParseRecord(b); err == nil && r.Seq == point.Seq && r.Hash.String() == point.Hash {
					v.Expected, v.OK = ExpectedHeld, true
				}
			}
			if !yield(b) {
				return
			}
		}
	}
	err := audit.Verify(head, watched)
	if misfit, ok := errors.AsType[*audit.Misfit](err); ok {
		v.OK, v.Seq, v.Fault = false, misfit.Seq, misfit.Error()
		return v, nil
	}
	return v, err
}

// Verify checks the chain that the state holds; point may be nil.
func (l *Log) Verify(ctx context.Context, point *Point) (ChainVerdict, error) {
	for tried := 0; ; tried++ {
		head, err := l.head()
		if err != nil {
			return ChainVerdict{}, err
		}
		v, err := verify(head, l.kept(ctx, head), point)
		if err != nil {
			return v, err
		}
		if err := ctx.Err(); err != nil {
			return ChainVerdict{}, err
		}
		now, err := l.head()
		// The oldest may have been forgotten while the chain was read.
		if v.OK || err != nil || now.First == head.First || tried == exportTries {
			return v, err
		}
	}
}

// kept are the records up to the head, and what lies in their places. It ends early with ctx.
func (l *Log) kept(ctx context.Context, head audit.Head) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for seq := max(head.First, 1); seq <= head.Seq && ctx.Err() == nil; seq++ {
			v, ok := l.state.Get(audit.BucketRecords, audit.Key(seq))
			if ok && !yield(v.Data) {
				return
			}
		}
	}
}

// maxLine bounds a line of an export: a record of the greatest size and its escapes.
const maxLine = 64 << 10

// ErrNotExport says that a file is no export of the audit log.
var ErrNotExport = errors.New("not an export of the audit log")

// VerifyExport checks an export by itself; point may be nil. A file that is no export is ErrNotExport.
func VerifyExport(r io.Reader, point *Point) (ChainVerdict, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), maxLine)
	if !lines.Scan() {
		return ChainVerdict{}, errors.Join(ErrNotExport, lines.Err())
	}
	var about exportHead
	if err := json.Unmarshal(lines.Bytes(), &about); err != nil || about.Version == 0 {
		return ChainVerdict{}, fmt.Errorf("%w: its first line names no head", ErrNotExport)
	}
	if about.Version != exportVersion {
		return ChainVerdict{}, fmt.Errorf("%w of this version: it is of version %d", ErrNotExport, about.Version)
	}
	head, err := about.Head.chain()
	if err != nil {
		return ChainVerdict{}, fmt.Errorf("%w: %w", ErrNotExport, err)
	}
	v, err := verify(head, func(yield func([]byte) bool) {
		for lines.Scan() {
			if !yield(lines.Bytes()) {
				return
			}
		}
	}, point)
	if err = errors.Join(err, lines.Err()); err != nil {
		return v, fmt.Errorf("read export: %w", err)
	}
	v.Origin = &about.ExportOrigin
	return v, nil
}
