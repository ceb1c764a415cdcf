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

// maxCharges bounds the memory of series refused without proof; beyond it all are forgotten and proof takes longer.
const maxCharges = 100_000

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
	perCall    int // label sets in one registration

	calls    int                // of this registration that were refused
	taken    bool               // another one of it was not
	suspects []uint64           // numbers that were refused in it
	charges  map[uint64]*charge // of numbers without proof
}

func newIDTable(sp *spool.Spool) *idTable {
	return &idTable{sp: sp, refused: map[uint64]time.Time{}, charges: map[uint64]*charge{}, perCall: wire.MaxSeriesPerCall}
}

// unprovenError is a registration that was refused without proof that the series are to blame.
type unprovenError struct{ err error }

func (e *unprovenError) Error() string { return e.err.Error() }
func (e *unprovenError) Unwrap() error { return e.err }

// forgetAll drops everything that was learned, when the cluster may be another one.
func (t *idTable) forgetAll() {
	t.ids = t.ids[:0]
	clear(t.refused)
	clear(t.charges)
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

// register asks for the ids of the numbers. Series that the cluster refuses are left out for a while, when it is
// clear that it is for them: it took others in the same breath, or there is proof as for a batch.
func (t *idTable) register(ctx context.Context, c *Client, node string, numbers []uint64, now time.Time) error {
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	t.calls, t.taken, t.suspects = 0, false, t.suspects[:0]
	var refusal error
	for chunk := range slices.Chunk(numbers, t.perCall) {
		if err := t.registerChunk(ctx, c, node, chunk, now, &refusal); err != nil {
			return err
		}
	}
	return t.judge(node, refusal, now)
}

// judge decides about the numbers that were refused.
func (t *idTable) judge(node string, refusal error, now time.Time) error {
	if len(t.charges) > maxCharges {
		clear(t.charges)
	}
	unproven := 0
	for _, n := range t.suspects {
		c := t.charges[n]
		if c == nil {
			c = &charge{}
			t.charges[n] = c
		}
		if c.add(node, now); !t.taken && !c.proven(now) {
			unproven++
			continue
		}
		t.refuse(n, now)
	}
	if unproven > 0 {
		return &unprovenError{fmt.Errorf("register series: %d were refused: %w", unproven, refusal)}
	}
	return nil
}

func (t *idTable) refuse(n uint64, now time.Time) {
	delete(t.charges, n)
	t.refused[n] = now.Add(refusedFor)
}

func (t *idTable) registerChunk(ctx context.Context, c *Client, node string, numbers []uint64, now time.Time, refusal *error) error {
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
			// 422 is the word of the state machine: a limit is reached.
			if *refusal = err; se.Code == http.StatusUnprocessableEntity {
				for _, n := range numbers {
					t.refuse(n, now)
				}
				return nil
			}
			t.suspects = append(t.suspects, numbers...)
			return nil
		}
		half := len(numbers) / 2
		if err := t.registerChunk(ctx, c, node, numbers[:half], now, refusal); err != nil {
			return err
		}
		return t.registerChunk(ctx, c, node, numbers[half:], now, refusal)
	}
	if err != nil {
		return fmt.Errorf("register %d series: %w", len(numbers), err)
	}
	t.taken = true
	for i, id := range ids {
		if id == 0 {
			t.refuse(numbers[i], now)
			continue
		}
		delete(t.refused, numbers[i])
		delete(t.charges, numbers[i])
		t.set(numbers[i], id)
	}
	return nil
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
