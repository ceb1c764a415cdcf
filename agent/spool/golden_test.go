package spool

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/triward/triward/agent/wire"
)

var update = flag.Bool("update", false, "write the golden bytes anew (only before format 1)")

// golden compares got with the bytes kept in testdata: a change is a change of the spool's format.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	text := hex.EncodeToString(got) + "\n"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("%s: bytes differ from the golden ones\n got %s want %s", name, text, want)
	}
}

// TestGoldenBytes holds every file of a spool: what an older agent left must open, and hold the same.
func TestGoldenBytes(t *testing.T) {
	changes := []StateChange{{"file/1", []byte{1, 2, 3}}, {"file/2", nil}, {"journal", []byte("s=1;i=2")}}
	rec := batchRecord{
		ord: 300, hash: 0x0102030405060708, codec: wire.CodecZstd, rawLen: 1000, items: 7, changes: changes, body: []byte("body"),
	}
	seg := appendHead(nil, 300, map[string][]byte{"journal": []byte("s=1;i=1"), "file/1": {1}, "file/2": {9}})
	seg = appendRecord(seg, rec.append(nil))
	seg = appendRecord(seg, appendChanges([]byte{typeState}, []StateChange{{"file/3", []byte{}}}))
	golden(t, "segment_v1", seg)

	dir := t.TempDir()
	m := meta{
		epoch: wire.Epoch{0xaa, 15: 0xbb}, Base: [4]uint64{1, 299, 0, 4},
		Drops: [4][]span{{{From: 2, To: 3}}}, Lost: [4]uint64{5},
	}
	if err := m.save(dir); err != nil {
		t.Fatal(err)
	}
	acks, err := openAcks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(acks.write(wire.LaneLogs, 299), acks.f.Close()); err != nil {
		t.Fatal(err)
	}
	dict, err := openDictionary(dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dict.number(wire.Labels{{Name: "__name__", Value: "up"}}.AppendKey(nil)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dict.sync(), dict.f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{metaName, "acks", "series"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "acks" { // the first write goes to the second slot
			b = b[ackSlot:]
		}
		golden(t, name+"_v1", b)
	}

	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "logs", fmt.Sprintf("%016x.seg", 300)), seg, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Options{})
	batches, err := s.Read(wire.LaneLogs, 1, 10, 1<<20)
	if err != nil || len(batches) != 1 || s.Epoch() != m.epoch {
		t.Fatalf("%d batches of epoch %s: %v", len(batches), s.Epoch(), err)
	}
	if b := batches[0]; b.Seq != 1 || b.Hash != rec.hash || b.Codec != rec.codec || b.RawLen != 1000 || string(b.Body) != "body" {
		t.Errorf("batch %+v", b)
	}
	st := s.State(wire.LaneLogs)
	if len(st) != 3 || string(st["file/1"]) != "\x01\x02\x03" || string(st["journal"]) != "s=1;i=2" || st["file/3"] == nil {
		t.Errorf("state %q", st)
	}
}
