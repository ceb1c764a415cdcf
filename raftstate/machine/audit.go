package machine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// writesItself reports whether the state machine alone writes the bucket, so that no transaction may.
func writesItself(bucket string) bool {
	return bucket == audit.BucketRecords || bucket == audit.BucketHead || bucket == BucketRetentionCuts || bucket == command.BucketSelectorCuts
}

// checkAudit checks what decoding does not and takes white space around details away.
func checkAudit(records []command.AuditRecord) error {
	for i := range records {
		r := &records[i]
		r.Detail = bytes.Trim(r.Detail, " \t\r\n")
		if len(r.Detail) > 0 && (!utf8.Valid(r.Detail) || !json.Valid(r.Detail)) {
			return fmt.Errorf("detail of audit record %d is no JSON value", i)
		}
	}
	return nil
}

// auditHead returns the head of the audit chain.
func auditHead(tx *meta.Tx) (audit.Head, error) {
	v, _ := tx.Get(audit.BucketHead, audit.KeyHead)
	return audit.ParseHead(v.Data)
}

// appendAudit adds records to the chain that ends at head, and forgets the oldest beyond the limits.
func (m *Machine) appendAudit(tx *meta.Tx, head audit.Head, records []command.AuditRecord) {
	for _, a := range records {
		r, b := head.Next(tx.Index(), tx.LogTime(), a)
		tx.Put(audit.BucketRecords, audit.Key(r.Seq), b, 0)
	}
	for head.First < head.Seq && (head.Seq-head.First >= uint64(m.lim.AuditRecords) || head.Bytes > m.lim.AuditBytes) {
		key := audit.Key(head.First)
		old, _ := tx.Get(audit.BucketRecords, key)
		tx.Delete(audit.BucketRecords, key)
		head.Bytes -= int64(len(old.Data))
		head.First++
	}
	tx.Put(audit.BucketHead, audit.KeyHead, head.AppendJSON(nil), 0)
}
