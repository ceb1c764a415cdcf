package gateway

import (
	"bytes"
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/pipeline"
	"github.com/triward/triward/raftstate/command"
)

// taker takes what the gateway keeps of the batches that it proposes, and looks whether it is what their bodies hold.
type taker struct {
	*direct
	t     *testing.T
	coder *wire.Coder
	known *wire.Decoded
	takes bool
	sent  []wire.Batch
	taken []*wire.LogBatch
}

func (k *taker) Propose(ctx context.Context, cmds ...command.Command) (uint64, []command.Result, error) {
	for _, c := range cmds {
		if c.Type != command.TypeBatch || !k.takes {
			continue
		}
		d, err := command.DecodeBatch(c)
		if err != nil {
			k.t.Error(err)
			continue
		}
		k.sent, k.taken = append(k.sent, d.Batch), append(k.taken, k.known.Take(&d.Batch))
	}
	return k.direct.Propose(ctx, cmds...)
}

// TestLabelledBatchesGoOnAsTheyCame: a batch in which nothing has to be changed is proposed with the body that came, and Apply is handed
// what it holds; all others are written anew, and decoded anew.
func TestLabelledBatchesGoOnAsTheyCame(t *testing.T) {
	known := wire.NewDecoded(1 << 20)
	k := &taker{t: t, known: known}
	r := newRigWith(t, func(o *Options) {
		k.direct, k.coder = o.Cluster.(*direct), o.Coder
		redactor, err := pipeline.NewRedactor(pipeline.Options{Passwords: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Cluster, o.Decoded, o.Redactor = k, known, redactor
	})
	epoch := wire.Epoch{1}
	r.register(epoch)
	rec, _, err := r.auth.Agent(r.agent)
	if err != nil {
		t.Fatal(err)
	}
	own := wire.Labels{{Name: "agent", Value: rec.ID}, {Name: "host", Value: rec.Hostname}}
	body := func(host wire.Labels, text string) []byte {
		return wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{
			{Kind: wire.StreamLog, Labels: host.With("file", "/a"), Lines: []wire.LogLine{
				{T: time.Now().UnixNano(), Text: []byte(text)}, {T: time.Now().UnixNano(), Fields: []wire.Label{{Name: "k", Value: "v"}}, Text: []byte("more")},
			}},
			{Kind: wire.StreamLog, Labels: host.With("file", "/b"), Lines: []wire.LogLine{{T: time.Now().UnixNano(), Text: []byte(text)}}},
		}})
	}
	batches := []wire.Batch{
		r.batch(wire.LaneLogs, epoch, 1, body(own, "one")),
		r.batch(wire.LaneLogs, epoch, 2, body(nil, "two")),
		r.batch(wire.LaneLogs, epoch, 3, body(own.With("host", "another"), "three")),
		r.batch(wire.LaneLogs, epoch, 4, body(own, "password=verysecret")),
		r.batch(wire.LaneLogs, epoch, 5, body(own, "five")),
	}
	k.takes = true
	for _, res := range r.send(epoch, batches...) {
		if res.Status != "ok" || res.Accepted != 3 {
			t.Errorf("%+v", res)
		}
	}
	if len(k.sent) != len(batches) {
		t.Fatalf("%d batches were proposed", len(k.sent))
	}
	for i, same := range []bool{true, false, false, false, true} {
		b := &k.sent[i]
		if bytes.Equal(b.Body, batches[i].Body) != same || (k.taken[i] != nil) != same {
			t.Errorf("batch %d: the body is the one that came: %v, decoded: %v", i+1, bytes.Equal(b.Body, batches[i].Body), k.taken[i] != nil)
		}
		raw, err := k.coder.Decompress(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		holds, err := wire.DecodeLogs(raw)
		if err != nil {
			t.Fatal(err)
		}
		if same && !reflect.DeepEqual(k.taken[i], holds) {
			t.Errorf("batch %d holds %+v, Apply is told %+v", i+1, holds, k.taken[i])
		}
		for j := range holds.Streams {
			if ls := holds.Streams[j].Labels; ls.Get("host") != rec.Hostname || ls.Get("agent") != rec.ID {
				t.Errorf("batch %d: labels %v", i+1, ls)
			}
		}
		if bytes.Contains(raw, []byte("verysecret")) {
			t.Errorf("batch %d holds a secret", i+1)
		}
	}
	// What nobody has taken when the request is answered is forgotten.
	k.takes = false
	last := r.batch(wire.LaneLogs, epoch, 6, body(own, "six"))
	r.send(epoch, last)
	if last.Agent = rec.ID; known.Take(&last) != nil {
		t.Error("what the gateway decoded is kept behind the request")
	}
}
