package audit_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
)

var update = flag.Bool("update", false, "write testdata anew")

// chain makes n records and the head behind them.
func chain(n int) (records [][]byte, head audit.Head) {
	for i := range n {
		a := command.AuditRecord{Actor: fmt.Sprint("user", i), Address: "192.0.2.7", Action: "user.create", Target: fmt.Sprint("users/", i)}
		if i%2 == 0 {
			a.Detail = fmt.Appendf(nil, `{"n": %d}`, i)
		}
		_, b := head.Next(uint64(100+i), 1_700_000_000_000+int64(i), a)
		records = append(records, b)
	}
	return records, head
}

// The forms of record and head and the hash are a format.
func TestGoldenChain(t *testing.T) {
	var head audit.Head
	var b bytes.Buffer
	for i, a := range []command.AuditRecord{
		{Actor: "root", Address: "192.0.2.7", Action: "user.create", Target: "users/eve", Detail: []byte(`{ "role":"admin" }`)},
		{Action: "node.start"},
		{Actor: "\"quoted\\ \x00\n\u007f\u2028<&>é", Action: "a", Detail: []byte("null")},
	} {
		want, kept := head.Next(uint64(300+i), 1_700_000_000_000, a)
		fmt.Fprintf(&b, "%s %s\n%s\n", audit.Key(head.Seq), kept, head.AppendJSON(nil))
		got, err := audit.ParseRecord(kept)
		if err != nil || !reflect.DeepEqual(got, want) || got.Sum() != got.Hash {
			t.Errorf("read back as %+v, %v\nwant %+v", got, err, want)
		}
		if h, err := audit.ParseHead(head.AppendJSON(nil)); err != nil || h != head {
			t.Errorf("head read back as %+v, %v", h, err)
		}
	}
	path := filepath.Join("testdata", "chain.txt")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, b.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the format changed: got\n%s\nwant\n%s", b.String(), want)
	}
}

// rehash edits a record and gives it the hash that fits, as somebody would who knows the format.
func rehash(t *testing.T, b []byte, edit func(r *audit.Record)) []byte {
	t.Helper()
	r, err := audit.ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	edit(&r)
	r.Hash = r.Sum()
	return r.AppendJSON(nil)
}

func TestVerifyNamesTheFirstThatDoesNotFit(t *testing.T) {
	whole, head := chain(20)
	if err := audit.Verify(head, slices.Values(whole)); err != nil {
		t.Fatal(err)
	}
	text := func(i int, from, to string) func([][]byte) [][]byte {
		return func(r [][]byte) [][]byte {
			b := bytes.Replace(r[i], []byte(from), []byte(to), 1)
			if bytes.Equal(b, r[i]) {
				t.Fatalf("record %d has no %q", i+1, from)
			}
			r[i] = b
			return r
		}
	}
	for name, c := range map[string]struct {
		harm  func(r [][]byte) [][]byte
		seq   uint64
		fault audit.Fault
	}{
		"text edited":        {text(4, "user4", "user5"), 5, audit.Edited},
		"time edited":        {text(4, "1700000000004", "1700000000005"), 5, audit.Edited},
		"index edited":       {text(4, `"index":104`, `"index":105`), 5, audit.Edited},
		"number edited":      {text(4, `"seq":5`, `"seq":6`), 5, audit.Edited},
		"detail edited":      {text(4, `{"n": 4}`, `{"n":4}`), 5, audit.Edited},
		"detail taken":       {text(4, `,"detail":{"n": 4}`, ``), 5, audit.Edited},
		"member added":       {text(4, `,"prev"`, `,"note":1,"prev"`), 5, audit.Edited},
		"member doubled":     {text(4, `"actor"`, `"actor":"x","actor"`), 5, audit.Edited},
		"written otherwise":  {text(4, `"user4"`, `"user\u0034"`), 5, audit.Edited},
		"no JSON":            {func(r [][]byte) [][]byte { r[4] = nil; return r }, 5, audit.Edited},
		"bit flipped":        {func(r [][]byte) [][]byte { r[4][30] ^= 1; return r }, 5, audit.Edited},
		"first deleted":      {func(r [][]byte) [][]byte { return r[1:] }, 1, audit.Missing},
		"one deleted":        {func(r [][]byte) [][]byte { return slices.Delete(r, 4, 5) }, 5, audit.Missing},
		"many deleted":       {func(r [][]byte) [][]byte { return slices.Delete(r, 4, 9) }, 5, audit.Missing},
		"two exchanged":      {func(r [][]byte) [][]byte { r[4], r[9] = r[9], r[4]; return r }, 5, audit.Reordered},
		"moved to the end":   {func(r [][]byte) [][]byte { return append(slices.Delete(slices.Clone(r), 4, 5), r[4]) }, 5, audit.Reordered},
		"doubled":            {func(r [][]byte) [][]byte { return slices.Insert(r, 5, r[4]) }, 5, audit.Reordered},
		"last cut":           {func(r [][]byte) [][]byte { return r[:19] }, 20, audit.CutOff},
		"end cut":            {func(r [][]byte) [][]byte { return r[:7] }, 8, audit.CutOff},
		"all gone":           {func([][]byte) [][]byte { return nil }, 1, audit.CutOff},
		"edited with a hash": {func(r [][]byte) [][]byte { r[4] = rehash(t, r[4], func(r *audit.Record) { r.Actor = "eve" }); return r }, 6, audit.Replaced},
		"first with a hash":  {func(r [][]byte) [][]byte { r[0] = rehash(t, r[0], func(r *audit.Record) { r.Prev[0] = 1 }); return r }, 1, audit.Replaced},
		"last with a hash": {func(r [][]byte) [][]byte {
			r[19] = rehash(t, r[19], func(r *audit.Record) { r.Actor = "eve" })
			return r
		}, 20, audit.Replaced},
		"one more": {func(r [][]byte) [][]byte {
			more := head
			_, b := more.Next(1, 1, command.AuditRecord{Action: "x"})
			return append(r, b)
		}, 21, audit.Beyond},
	} {
		t.Run(name, func(t *testing.T) {
			records := make([][]byte, len(whole))
			for i := range whole {
				records[i] = bytes.Clone(whole[i])
			}
			err := audit.Verify(head, slices.Values(c.harm(records)))
			misfit, ok := errors.AsType[*audit.Misfit](err)
			if !ok || misfit.Seq != c.seq || misfit.Fault != c.fault {
				t.Errorf("%v, want that record %d %s", err, c.seq, c.fault)
			}
			if ok && !strings.Contains(err.Error(), fmt.Sprintf("record %d ", c.seq)) {
				t.Errorf("%q does not name record %d", err, c.seq)
			}
		})
	}
}

// A chain whose beginning was forgotten is verified from the oldest record kept, and an empty one is whole.
func TestVerifyFromTheOldestKept(t *testing.T) {
	whole, head := chain(20)
	head.First = 8
	if err := audit.Verify(head, slices.Values(whole[7:])); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		records [][]byte
		seq     uint64
		fault   audit.Fault
	}{
		"oldest deleted":  {whole[8:], 8, audit.Missing},
		"older left over": {whole[6:], 7, audit.Reordered},
	} {
		misfit, ok := errors.AsType[*audit.Misfit](audit.Verify(head, slices.Values(c.records)))
		if !ok || misfit.Seq != c.seq || misfit.Fault != c.fault {
			t.Errorf("%s: %v, want that record %d %s", name, misfit, c.seq, c.fault)
		}
	}
	if err := audit.Verify(audit.Head{}, slices.Values([][]byte(nil))); err != nil {
		t.Errorf("empty chain: %v", err)
	}
	if err := audit.Verify(audit.Head{}, slices.Values(whole[:1])); err == nil {
		t.Error("a record of an empty chain fits")
	}
}

// What ParseRecord takes it writes again as it was, and it never panics.
func FuzzParseRecord(f *testing.F) {
	records, head := chain(2)
	for _, b := range records {
		f.Add(b)
	}
	f.Add(head.AppendJSON(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := audit.ParseRecord(b)
		if err == nil && !bytes.Equal(r.AppendJSON(nil), b) {
			t.Fatalf("%q became %q", b, r.AppendJSON(nil))
		}
		_, _ = audit.ParseHead(b)
	})
}
