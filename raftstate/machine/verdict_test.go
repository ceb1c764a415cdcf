package machine_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
)

// told is what an entry brings by itself and by the verdict on it, for somebody who has no state.
type told struct {
	t       *testing.T
	coder   *wire.Coder
	logTime int64
	samples []string
	lines   []string
}

func (x *told) command(c command.Command, v *command.CommandVerdict) {
	x.t.Helper()
	if v != nil && v.Status != command.StatusOK {
		return
	}
	var b wire.Batch
	switch c.Type {
	case command.TypeBatch:
		d, err := command.DecodeBatch(c)
		if err != nil {
			x.t.Fatal(err)
		}
		b = d.Batch
	case command.TypeDeliver:
		d, err := command.DecodeDeliver(c)
		if err != nil {
			x.t.Fatal(err)
		}
		b = wire.Batch{Identity: wire.Identity{Lane: d.Lane}, Codec: d.Codec, RawLen: d.RawLen, Body: d.Body}
	default:
		return
	}
	raw, err := x.coder.Decompress(nil, &b)
	if err != nil {
		x.t.Fatal(err)
	}
	item := 0
	stored := func() bool {
		item++
		return v == nil || !slices.ContainsFunc(v.Refused, func(r command.Run) bool {
			return uint32(item-1) >= r.From && uint32(item-1) < r.From+r.N
		})
	}
	if b.Lane.CarriesMetrics() {
		var m wire.MetricsBody
		if err := m.Decode(raw); err != nil {
			x.t.Fatal(err)
		}
		for _, s := range m.Scrapes {
			for i, id := range s.IDs {
				if stored() {
					x.samples = append(x.samples, fmt.Sprint(id, s.T, s.Values[i]))
				}
			}
		}
		return
	}
	logs, err := wire.DecodeLogs(raw)
	if err != nil {
		x.t.Fatal(err)
	}
	for i := range logs.Streams {
		for j := range logs.Streams[i].Lines {
			l := &logs.Streams[i].Lines[j]
			if !stored() {
				continue
			}
			if v != nil && v.Moved && l.T > (x.logTime+machine.FutureWindow)*1e6 {
				machine.MoveLine(l, x.logTime*1e6)
			}
			x.lines = append(x.lines, lineText(&logs.Streams[i], l))
		}
	}
}

func lineText(st *wire.LogStream, l *wire.LogLine) string {
	return fmt.Sprintf("%v %v %v %v %q %v", st.Kind, st.Labels, l.T, l.Severity, l.Text, l.Fields)
}

// Whoever has the log and the verdicts on its entries knows exactly what the stores were given.
func TestVerdictsTellWhatWasStored(t *testing.T) {
	for seed := range uint64(6) {
		m, s := newMachineOf(t, modelLimits())
		g := newGenerator(t, seed)
		var group machine.Group
		refused, moved, samples, lines := 0, 0, 0, 0
		for index := uint64(1); index <= 1500; index++ {
			e, _ := g.entry()
			group.Reset()
			if _, err := m.Apply(index, 1, e, &group); err != nil {
				t.Fatal(err)
			}
			x := told{t: t, coder: g.coder, logTime: s.LogTime()}
			var v *command.Verdict
			for _, iv := range group.Verdicts {
				var err error
				if v, err = command.DecodeVerdict(iv.Body); err != nil || iv.Index != index {
					t.Fatal(err, iv.Index)
				}
				if v.LogTime != x.logTime {
					t.Fatalf("entry %d: verdict of %d, log time %d", index, v.LogTime, x.logTime)
				}
				for _, c := range v.Commands {
					refused += len(c.Refused)
					if c.Moved {
						moved++
					}
				}
			}
			for i, c := range e.Commands {
				x.command(c, v.Of(i))
			}
			var wantSamples, wantLines []string
			for i, id := range group.Samples.IDs {
				wantSamples = append(wantSamples, fmt.Sprint(id, group.Samples.T[i], group.Samples.Values[i]))
			}
			for _, entry := range group.Logs {
				for _, b := range entry.Batches {
					for i := range b.Batch.Streams {
						for j := range b.Batch.Streams[i].Lines {
							wantLines = append(wantLines, lineText(&b.Batch.Streams[i], &b.Batch.Streams[i].Lines[j]))
						}
					}
				}
			}
			if !slices.Equal(x.samples, wantSamples) || !slices.Equal(x.lines, wantLines) {
				t.Fatalf("seed %d, entry %d, verdict %+v:\nsamples %v\nstored  %v\nlines  %v\nstored %v", seed, index, v, x.samples, wantSamples, x.lines, wantLines)
			}
			samples, lines = samples+len(wantSamples), lines+len(wantLines)
			m.Finish(&group)
		}
		if refused == 0 || moved == 0 || samples == 0 || lines == 0 {
			t.Errorf("seed %d: %d refused runs, %d batches with moved lines, %d samples, %d lines: the test sees nothing", seed, refused, moved, samples, lines)
		}
	}
}
