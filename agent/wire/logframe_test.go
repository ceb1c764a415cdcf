package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// someLogs is a body with a stream for each of counts, which has so many lines.
func someLogs(seed uint64, counts ...int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := &LogBatch{}
	for i, n := range counts {
		s := LogStream{Kind: StreamLog, Labels: Labels{{"file", fmt.Sprintf("/var/log/%d", i)}, {"host", "h"}}}
		t := int64(1_700_000_000e9)
		for j := range n {
			t += rng.Int64N(5e9)
			l := LogLine{T: t, Severity: SeverityInfo, Text: fmt.Appendf(nil, "session %d of user%d opened from 10.0.%d.%d", rng.IntN(1e6), rng.IntN(50), rng.IntN(256), rng.IntN(256))}
			if j%7 == 0 {
				l.Fields = []Label{{"elapsed", fmt.Sprint(rng.IntN(1e4))}, {"path", "/a/b"}}
			}
			s.Lines = append(s.Lines, l)
		}
		b.Streams = append(b.Streams, s)
	}
	return AppendLogs(nil, b)
}

func mustCoder(t *testing.T) *Coder {
	t.Helper()
	c, err := NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCompressedLogsAreTheSame(t *testing.T) {
	c := mustCoder(t)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 50 {
				rng := rand.New(rand.NewPCG(uint64(g), uint64(i)))
				counts := make([]int, rng.IntN(12))
				for k := range counts {
					counts[k] = rng.IntN(3 * cutLines)
				}
				raw := someLogs(uint64(i), counts...)
				if i == 0 {
					raw = someLogs(1, 3000) // blocks longer than one may be
				}
				b := Batch{RawLen: len(raw)}
				var front []byte
				b.Codec, front = c.CompressLogs([]byte("front"), raw)
				rest, ok := bytes.CutPrefix(front, []byte("front"))
				b.Body = rest
				if got, err := c.Decompress(nil, &b); err != nil || !ok || !bytes.Equal(got, raw) {
					t.Errorf("%d streams of %v lines: %v", len(counts), counts, err)
				}
			}
		})
	}
	all.Wait()
}

// TestTimesAreBlocks: what is won by it, and that streams of few lines lose nothing.
func TestTimesAreBlocks(t *testing.T) {
	c := mustCoder(t)
	few, many := someLogs(1, cutLines-1, 1, 0, cutLines-1), someLogs(2, 60, 60, 5, 60)
	if _, cut := c.CompressLogs(nil, few); len(cutsOf(few)) != 0 || !bytes.Equal(cut, plainly(c, few)) {
		t.Errorf("%d cuts in streams of few lines", len(cutsOf(few)))
	}
	_, cut := c.CompressLogs(nil, many)
	if plain := plainly(c, many); len(cutsOf(many)) != 6 || len(cut) > len(plain)*98/100 {
		t.Errorf("%d cuts, %d bytes instead of %d", len(cutsOf(many)), len(cut), len(plain))
	}
}

func plainly(c *Coder, raw []byte) []byte {
	_, b := c.Compress(nil, raw)
	return b
}

// What is no logs body is compressed all the same.
func TestBrokenBodiesAreNotCut(t *testing.T) {
	c := mustCoder(t)
	whole := someLogs(3, 30, 40)
	for n := range whole {
		b := Batch{RawLen: n}
		b.Codec, b.Body = c.CompressLogs(nil, whole[:n])
		if got, err := c.Decompress(nil, &b); err != nil || !bytes.Equal(got, whole[:n]) || len(cutsOf(whole[:n])) != 0 {
			t.Fatalf("the first %d of %d bytes: %v, %d cuts", n, len(whole), err, len(cutsOf(whole[:n])))
		}
	}
}
