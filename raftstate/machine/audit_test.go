package machine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

// trail returns head and records as they are kept.
func trail(t testing.TB, s *meta.Store) (audit.Head, [][]byte) {
	t.Helper()
	v, _ := s.Get(audit.BucketHead, audit.KeyHead)
	head, err := audit.ParseHead(v.Data)
	if err != nil {
		t.Fatal(err)
	}
	var records [][]byte
	s.Scan(audit.BucketRecords, "", func(key string, v meta.Value) bool {
		if want := audit.Key(head.First + uint64(len(records))); key != want {
			t.Errorf("record %s where %s belongs", key, want)
		}
		records = append(records, v.Data)
		return true
	})
	return head, records
}

// verifyTrail checks the chain that the store keeps and returns its records.
func verifyTrail(t testing.TB, s *meta.Store) (audit.Head, []audit.Record) {
	t.Helper()
	head, kept := trail(t, s)
	if err := audit.Verify(head, func(yield func([]byte) bool) {
		for _, b := range kept {
			if !yield(b) {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	size := int64(0)
	records := make([]audit.Record, len(kept))
	for i, b := range kept {
		size += int64(len(b))
		r, err := audit.ParseRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		records[i] = r
	}
	if size != head.Bytes {
		t.Errorf("%d bytes are kept, the head says %d", size, head.Bytes)
	}
	return head, records
}

func did(action string) command.AuditRecord {
	return command.AuditRecord{Actor: "root", Address: "192.0.2.7", Action: action, Target: "users/eve", Detail: []byte(" {\"a\": 1}\n")}
}

// Records are there when the transaction was applied, and only then.
func TestAuditFollowsTheTransaction(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	put := command.Op{Bucket: "users", Key: "eve", Value: []byte("1")}
	if got := r.apply(command.NewMetaTxn(command.Txn{Ops: []command.Op{put}, Audit: []command.AuditRecord{did("user.create"), did("user.grant")}})); got.Status != command.StatusOK {
		t.Fatalf("%+v", got)
	}
	changed := fmt.Sprint(r.group.Meta)
	if want := fmt.Sprintf("[{users eve} {audit %s} {audit %s} {audit_head head}]", audit.Key(1), audit.Key(2)); changed != want {
		t.Errorf("observers are told of %s, want %s", changed, want)
	}
	refused := func(status command.Status, why string, txn command.Txn) {
		t.Helper()
		txn.Ops = append(txn.Ops, command.Op{Bucket: "users", Key: "mallory", Value: []byte("1")})
		txn.Audit = append(txn.Audit, did("refused"))
		got := r.apply(command.NewMetaTxn(txn))
		if got.Status != status || !strings.Contains(got.Detail, why) {
			t.Errorf("%+v, want %s for %s", got, status, why)
		}
		if _, ok := r.s.Get("users", "mallory"); ok {
			t.Errorf("%s: an operation was applied", why)
		}
	}
	refused(command.StatusConflict, "users/eve", command.Txn{Compares: []command.Compare{{Bucket: "users", Key: "eve"}}})
	for _, bucket := range []string{audit.BucketRecords, audit.BucketHead, machine.BucketRetentionCuts} {
		refused(command.StatusInvalid, "bucket "+bucket, command.Txn{Ops: []command.Op{{Bucket: bucket, Key: audit.Key(1), Value: []byte("x")}}})
		refused(command.StatusInvalid, "bucket "+bucket, command.Txn{Ops: []command.Op{put, {Bucket: bucket, Key: audit.Key(1), Delete: true}}})
	}
	bad := func(why string, change func(a *command.AuditRecord)) {
		t.Helper()
		a := did("x")
		change(&a)
		refused(command.StatusInvalid, why, command.Txn{Audit: []command.AuditRecord{did("y"), a}})
	}
	bad("record 1 is no JSON value", func(a *command.AuditRecord) { a.Detail = []byte("{") })
	bad("record 1 is no JSON value", func(a *command.AuditRecord) { a.Detail = []byte("\"\xff\"") })
	bad("detail", func(a *command.AuditRecord) { a.Detail = bytes.Repeat([]byte("1"), command.MaxAuditDetail+1) })
	bad("target", func(a *command.AuditRecord) { a.Target = strings.Repeat("t", command.MaxAuditText+1) })
	bad("actor that is not UTF-8", func(a *command.AuditRecord) { a.Actor = "\xff" })
	bad("without an action", func(a *command.AuditRecord) { a.Action = "" })
	refused(command.StatusInvalid, "count of audit records", command.Txn{Audit: make([]command.AuditRecord, command.MaxTxnAudit)})

	commitMark(t, r.s, r.index)
	if got := r.apply(command.NewMetaTxn(command.Txn{Audit: []command.AuditRecord{did("alone")}})); got.Status != command.StatusOK {
		t.Fatalf("%+v", got)
	}
	head, records := verifyTrail(t, r.s)
	if head.First != 1 || head.Seq != 3 || len(records) != 3 {
		t.Fatalf("head %+v of %d records", head, len(records))
	}
	for i, want := range []struct {
		action string
		index  uint64
	}{{"user.create", 3}, {"user.grant", 3}, {"alone", r.index}} {
		got := records[i]
		if got.Action != want.action || got.Index != want.index || got.Time != start || string(got.Detail) != `{"a": 1}` || !json.Valid(got.AppendJSON(nil)) {
			t.Errorf("record %d is %+v", i+1, got)
		}
	}
}

// The oldest records go, by number and by size, and the rest stays a chain.
func TestAuditIsBounded(t *testing.T) {
	lim := machine.DefaultLimits()
	lim.AuditRecords = 10
	r := newRig(t, lim)
	for i := range 50 {
		txn := command.Txn{Audit: make([]command.AuditRecord, 1+i%3)}
		for k := range txn.Audit {
			txn.Audit[k] = did(fmt.Sprint("a", i))
		}
		r.apply(command.NewMetaTxn(txn))
		if i%7 == 0 {
			commitMark(t, r.s, r.index)
		}
	}
	if head, records := verifyTrail(t, r.s); head.Seq != 99 || head.First != 90 || len(records) != 10 {
		t.Errorf("head %+v of %d records", head, len(records))
	}
	lim = machine.DefaultLimits()
	lim.AuditBytes = 30_000
	r = newRig(t, lim)
	for i := range 20 {
		a := did("a")
		a.Detail = fmt.Appendf(nil, `"%s"`, strings.Repeat("x", 400*i))
		r.apply(command.NewMetaTxn(command.Txn{Audit: []command.AuditRecord{a}}))
		if head, _ := verifyTrail(t, r.s); head.Bytes > lim.AuditBytes || head.Seq != uint64(i+1) {
			t.Errorf("head %+v", head)
		}
	}
	if head, records := verifyTrail(t, r.s); len(records) < 3 || head.First < 10 {
		t.Errorf("head %+v of %d records", head, len(records))
	}
}
