package logstore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/index"
)

// The keys and rows of format 1 are read for ever. What is in a block has its own golden bytes in package block.
func TestGoldenRows(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	labels := wire.LabelsFromMap(map[string]string{"host": "web-1", "unit": "sshd.service"})
	stream := streamIDOf(wire.StreamLog, labels)
	batch := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: labels, Lines: []wire.LogLine{
		{T: testDay*DayNs + 5, Severity: wire.SeverityInfo, Text: []byte("first 磁盘 line")},
		{T: testDay*DayNs + 3, Severity: wire.SeverityError, Text: []byte("second"), Fields: []wire.Label{{Name: "code", Value: "503"}}},
	}}}}
	row := inboxRow{
		index: 7, ord: 3, codec: wire.CodecNone, lines: 2, minT: testDay*DayNs + 3, maxT: testDay*DayNs + 5, bytes: 191,
		body: wire.AppendLogs(nil, &batch),
	}
	mark := madeBlock{k: dayStream{testDay, stream}, id: 0x0102030405060708, lines: 2, bytes: 191}
	name := index.Name{1, 2, 3, 15: 16}
	terms := []byte("first\nline\n")
	pairs := map[string][]byte{
		"applied.key": keyApplied, "applied.value": appendApplied(nil, 1<<40+7),
		"inbox.key": inboxKey(row.index, row.ord), "inbox.value": row.append(nil),
		"stream.key": streamKey(testDay, stream), "stream.value": appendStream(nil, wire.StreamLog, labels),
		"header.key": headerKey(testDay, stream, mark.id), "columns.key": blockKey(prefixColumns, testDay, mark.id),
		"text.key": blockKey(prefixText, testDay, mark.id), "filter.key": blockKey(prefixFilter, testDay, mark.id),
		"mark.key": blockKey(prefixMark, testDay, mark.id), "mark.value": append(appendMark(nil, stream, 2, 191), s.codec.Compress(nil, terms)...),
		"index.key": dayPrefix(prefixIndex, testDay), "index.value": appendIndexName(nil, name),
		"before1970.key": dayPrefix(prefixIndex, -1),
	}
	golden := readGolden(t, "testdata/rows_v1.hex", pairs)
	for what, b := range pairs {
		if what != "mark.value" && !bytes.Equal(golden[what], b) { // another zstd may compress otherwise
			t.Errorf("%s is written as %x", what, b)
		}
	}

	if applied, err := parseApplied(golden["applied.value"]); err != nil || applied != 1<<40+7 {
		t.Errorf("applied reads as %d: %v", applied, err)
	}
	r, err := parseInboxRow(golden["inbox.key"], golden["inbox.value"])
	if err != nil || r.index != row.index || r.ord != row.ord || r.lines != 2 || r.minT != row.minT || r.maxT != row.maxT || r.bytes != row.bytes {
		t.Fatalf("inbox row reads as %+v: %v", r, err)
	}
	if b, err := r.decode(s.codec); err != nil || !slices.EqualFunc(b.Streams[0].Lines, batch.Streams[0].Lines, func(a, b wire.LogLine) bool {
		return a.T == b.T && a.Severity == b.Severity && bytes.Equal(a.Text, b.Text) && slices.Equal(a.Fields, b.Fields)
	}) {
		t.Errorf("inbox row holds %+v: %v", b, err)
	}
	if st, err := streamOf(stream, golden["stream.value"]); err != nil || st.kind != wire.StreamLog || st.label("unit") != "sshd.service" || st.label("x") != "" || !slices.Equal(st.labels(), labels) || st.label("host") != "web-1" {
		t.Errorf("stream reads as %+v: %v", st, err)
	}
	if d, sid, id := parseHeaderKey(golden["header.key"]); d != testDay || sid != stream || id != mark.id {
		t.Errorf("header key reads as %d %x %x", d, sid, id)
	}
	m, frame, err := parseMark(golden["mark.key"], golden["mark.value"])
	if err != nil || m != mark {
		t.Errorf("mark reads as %+v: %v", m, err)
	}
	if got, err := s.codec.Decompress(nil, frame); err != nil || !bytes.Equal(got, terms) {
		t.Errorf("terms read as %q: %v", got, err)
	}
	if n, err := parseIndexName(golden["index.value"]); err != nil || n != name {
		t.Errorf("index name reads as %x: %v", n, err)
	}
	if dayOf(golden["before1970.key"]) != -1 || bytes.Compare(golden["before1970.key"], golden["index.key"]) >= 0 {
		t.Error("days before 1970 do not come first")
	}
}

func streamOf(id streamID, v []byte) (st stream, err error) {
	err = parseStream(&st, id, v)
	return st, err
}

// A row of a version that this program does not know is refused, whichever it is.
func TestRowsOfANewerVersionAreRefused(t *testing.T) {
	golden := readGolden(t, "testdata/rows_v1.hex", nil)
	newer := func(what string) []byte {
		b := bytes.Clone(golden[what])
		b[0]++
		return b
	}
	for what, parse := range map[string]func([]byte) error{
		"applied.value": func(v []byte) error { return second(parseApplied(v)) },
		"inbox.value":   func(v []byte) error { return second(parseInboxRow(golden["inbox.key"], v)) },
		"stream.value":  func(v []byte) error { return second(streamOf(streamID{}, v)) },
		"mark.value":    func(v []byte) error { _, _, err := parseMark(golden["mark.key"], v); return err },
		"index.value":   func(v []byte) error { return second(parseIndexName(v)) },
	} {
		if err := parse(golden[what]); err != nil {
			t.Errorf("%s of version 1: %v", what, err)
		}
		if err := parse(newer(what)); !errors.Is(err, block.ErrNewer) || errors.Is(err, block.ErrDamaged) {
			t.Errorf("%s of version 2: %v", what, err)
		}
	}
}

// readGolden reads lines of "name hex". NEW_GOLDEN=1 writes a file that is not there; one that is there is what stores hold, and no
// test writes over it.
func readGolden(t *testing.T, file string, now map[string][]byte) map[string][]byte {
	t.Helper()
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) && os.Getenv("NEW_GOLDEN") != "" && now != nil {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(now)) {
			b.WriteString(name + " " + hex.EncodeToString(now[name]) + "\n")
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	golden := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		name, hexed, _ := strings.Cut(strings.TrimSpace(line), " ")
		if golden[name], err = hex.DecodeString(hexed); err != nil {
			t.Fatal(err)
		}
	}
	return golden
}

// A store that a newer program wrote is not damaged: whoever opens it learns that the program is too old, and installs nothing.
func TestStoreOfANewerProgramIsNotDamaged(t *testing.T) {
	golden := readGolden(t, "testdata/rows_v1.hex", nil)
	row := func(key []byte, what string) func(*engine) error {
		return func(e *engine) error {
			v := bytes.Clone(golden[what])
			v[0]++
			return e.db.Set(key, v, pebble.NoSync)
		}
	}
	for name, plant := range map[string]func(*engine) error{
		"inbox":   row(golden["inbox.key"], "inbox.value"),
		"mark":    row(golden["mark.key"], "mark.value"),
		"index":   row(dayPrefix(prefixIndex, testDay), "index.value"),
		"applied": row(keyApplied, "applied.value"),
		"floors": func(e *engine) error {
			return e.writeDurably(floorsFile, []byte(`{"version": 2, "floors": []}`))
		},
		"pebble": func(e *engine) error {
			files := e.store.opt.FS
			m, _, err := atomicfs.LocateMarker(files, filepath.Join(e.dir, "pebble"), "format-version")
			if err != nil {
				return err
			}
			return errors.Join(m.Move(fmt.Sprint(uint64(pebble.FormatNewest)+50)), m.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			told := false
			s := testStore(t, dir, Options{OnDamage: func(*DamageError) { told = true }})
			e, release, err := s.acquire()
			if err != nil {
				t.Fatal(err)
			}
			if err := plant(e); err != nil {
				t.Fatal(err)
			}
			release()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := New(Options{Manual: true, OnDamage: func(*DamageError) { told = true }})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = again.Close() }()
			err = again.Open(dir)
			var other interface{ OtherVersion() }
			if !errors.As(err, &other) || errors.Is(err, ErrDamaged) || told {
				t.Errorf("damage told: %v, %v", told, err)
			}
		})
	}
}
