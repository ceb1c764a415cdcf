package wire

import (
	"bytes"
	"testing"
)

func TestDecodedGivesOnlyWhatTheBytesHold(t *testing.T) {
	logs := &LogBatch{Streams: []LogStream{{Lines: []LogLine{{Text: []byte("a"), Fields: []Label{{"n", "v"}}}}}}}
	b := Batch{Identity: Identity{Agent: "a", Seq: 1}, Codec: CodecNone, RawLen: 100, Body: []byte("body")}
	need := 100 + lineMemory + fieldMemory
	d := NewDecoded(need)
	if !d.Keep(&b, logs) {
		t.Fatal("it was not kept")
	}
	for name, change := range map[string]func(*Batch){
		"body": func(o *Batch) { o.Body = []byte("bodY") }, "codec": func(o *Batch) { o.Codec = CodecZstd },
		"length": func(o *Batch) { o.RawLen++ }, "identity": func(o *Batch) { o.Seq++ },
	} {
		other := b
		if change(&other); d.Take(&other) != nil {
			t.Errorf("a batch of another %s was taken", name)
		}
	}
	next := b
	next.Seq = 2
	if d.Keep(&next, logs) {
		t.Error("more was kept than there is room for")
	}
	if d.Keep(&b, &LogBatch{}) {
		t.Error("a batch was kept twice")
	}
	again := b
	again.Body = bytes.Clone(b.Body)
	if d.Take(&again) != logs || d.Take(&again) != nil {
		t.Error("it is not taken once")
	}
	if !d.Keep(&next, logs) {
		t.Fatal("what was taken has left no room")
	}
	d.Forget([]Batch{b, next})
	if d.Take(&next) != nil || d.room != need {
		t.Errorf("it was not forgotten: room for %d of %d bytes", d.room, need)
	}
	var none *Decoded
	if none.Forget([]Batch{b}); none.Keep(&b, logs) || none.Take(&b) != nil {
		t.Error("nothing keeps something")
	}
}
