package sender

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

// refusedFor is how long a series that the cluster refused is left out before it is offered again.
const refusedFor = 10 * time.Minute

// maxSplits bounds the calls that look for the series for which a registration is refused. Beyond it (a limit is
// reached rather than one series bad) all that were in the refused call are left out.
const maxSplits = 32

var errSeriesUnknown = errors.New("batch names a series number that the dictionary does not hold")

// idTable maps the spool's local series numbers to the ids of the cluster. It lives in memory: after a restart
// series are registered again, which gives the same ids.
type idTable struct {
	sp         *spool.Spool
	generation uint64
	ids        []uint64 // by local number; 0 is unknown
	refused    map[uint64]time.Time
	decoded    wire.MetricsBody
	raw        []byte
	scratch    wire.Scrape
	order      []int
	calls      int
}

func newIDTable(sp *spool.Spool) *idTable { return &idTable{sp: sp, refused: map[uint64]time.Time{}} }

// forgetAll drops everything that was learned, when the cluster may be another one.
func (t *idTable) forgetAll() {
	t.ids = t.ids[:0]
	clear(t.refused)
}

// forget drops the given cluster ids, or all when none is named.
func (t *idTable) forget(unknown []uint64) {
	if len(unknown) == 0 {
		t.forgetAll()
		return
	}
	for i, id := range t.ids {
		if id != 0 && slices.Contains(unknown, id) {
			t.ids[i] = 0
		}
	}
}

func (t *idTable) id(n uint64) uint64 {
	if n < uint64(len(t.ids)) {
		return t.ids[n]
	}
	return 0
}

func (t *idTable) set(n, id uint64) {
	if need := int(n) + 1; need > len(t.ids) {
		t.ids = append(t.ids, make([]uint64, need-len(t.ids))...)
	}
	t.ids[n] = id
}

func (t *idTable) decode(coder *wire.Coder, b *wire.Batch) error {
	if g := t.sp.Generation(); g != t.generation {
		t.forgetAll()
		t.generation = g
	}
	var err error
	if t.raw, err = coder.Decompress(t.raw[:0], b); err != nil {
		return err
	}
	return t.decoded.Decode(t.raw)
}

// missing appends the local numbers of the batch that have no id yet.
func (t *idTable) missing(dst []uint64, coder *wire.Coder, b *wire.Batch, now time.Time) ([]uint64, error) {
	if err := t.decode(coder, b); err != nil {
		return dst, err
	}
	for _, s := range t.decoded.Scrapes {
		for _, n := range s.IDs {
			if t.id(n) != 0 {
				continue
			}
			if until, ok := t.refused[n]; ok && now.Before(until) {
				continue
			}
			dst = append(dst, n)
		}
	}
	return dst, nil
}

// register asks for the ids of the numbers. Series that the cluster refuses one by one are left out for a while.
func (t *idTable) register(ctx context.Context, c *Client, node string, numbers []uint64, now time.Time) error {
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	t.calls = 0
	for chunk := range slices.Chunk(numbers, wire.MaxSeriesPerCall) {
		if err := t.registerChunk(ctx, c, node, chunk, now); err != nil {
			return err
		}
	}
	return nil
}

func (t *idTable) registerChunk(ctx context.Context, c *Client, node string, numbers []uint64, now time.Time) error {
	sets := make([]map[string]string, len(numbers))
	for i, n := range numbers {
		ls, ok := t.sp.SeriesLabels(n)
		if !ok {
			return fmt.Errorf("%w: %d", errSeriesUnknown, n)
		}
		sets[i] = ls.Map()
	}
	ids, err := c.series(ctx, node, sets)
	var se *StatusError
	if errors.As(err, &se) && refusesContent(se.Code) {
		if t.calls++; len(numbers) == 1 || t.calls > maxSplits {
			for _, n := range numbers {
				t.refused[n] = now.Add(refusedFor)
			}
			return nil
		}
		half := len(numbers) / 2
		if err := t.registerChunk(ctx, c, node, numbers[:half], now); err != nil {
			return err
		}
		return t.registerChunk(ctx, c, node, numbers[half:], now)
	}
	if err != nil {
		return fmt.Errorf("register %d series: %w", len(numbers), err)
	}
	for i, id := range ids {
		if id == 0 {
			t.refused[numbers[i]] = now.Add(refusedFor)
			continue
		}
		delete(t.refused, numbers[i])
		t.set(numbers[i], id)
	}
	return nil
}

func refusesContent(code int) bool {
	return code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge || code == http.StatusUnprocessableEntity
}

// encode makes the body of b with cluster ids; identity and hash stay. left is how many samples have no id and
// are left out.
func (t *idTable) encode(coder *wire.Coder, b *wire.Batch) (out wire.Batch, left int, err error) {
	if err := t.decode(coder, b); err != nil {
		return wire.Batch{}, 0, err
	}
	scrapes := make([]wire.Scrape, 0, len(t.decoded.Scrapes))
	for _, s := range t.decoded.Scrapes {
		t.order = t.order[:0]
		for i, n := range s.IDs {
			if t.id(n) == 0 {
				left++
				continue
			}
			t.order = append(t.order, i)
		}
		slices.SortFunc(t.order, func(a, b int) int { return cmp.Compare(t.ids[s.IDs[a]], t.ids[s.IDs[b]]) })
		m := wire.Scrape{T: s.T, IDs: make([]uint64, 0, len(t.order)), Values: make([]float64, 0, len(t.order))}
		for _, i := range t.order {
			id := t.ids[s.IDs[i]]
			if k := len(m.IDs); k > 0 && m.IDs[k-1] == id {
				continue // two label sets that the cluster holds for one series: the first stands
			}
			m.IDs, m.Values = append(m.IDs, id), append(m.Values, s.Values[i])
		}
		scrapes = append(scrapes, m)
	}
	raw := wire.AppendMetrics(nil, scrapes)
	out = wire.Batch{Identity: b.Identity, RawLen: len(raw)}
	out.Codec, out.Body = coder.Compress(nil, raw)
	return out, left, nil
}
