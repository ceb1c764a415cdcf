// Package machine is the deterministic state machine: it applies the commands of an entry to the deciding state
// and says what the stores are to take.
//
// Its outcome is a function of the log alone (invariant I2): no clock, no random number, no order of a map, no
// setting of one node. Any change to what it computes is a change of format (DESIGN D16). It stores no sample
// and no line, knows nothing of Raft, and must not import a store.
package machine

import (
	"errors"
	"fmt"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// ErrUnknownCommand says that an entry holds a command which this program does not know and which may not be
// passed over, or raises the format beyond what it knows: the node must stop. Nothing of the entry was applied.
var ErrUnknownCommand = errors.New("unknown command in the log: this program is too old for its cluster")

// Format is the greatest format of the cluster's state that this program applies. Since format 2 stores may write blocks of lines
// of version 2, and selectors cut lines (docs/formats.md).
const Format = 2

// FutureWindow is how far before log time a sample or line may be, in milliseconds.
const FutureWindow = 10 * 60 * 1000

// Limits of the state. They decide what Apply answers, so every node of a cluster must have the same: use
// DefaultLimits, whose values are part of the format.
type Limits struct {
	Agents         int // agents that ever opened an epoch, registered a series or delivered
	Series         int // series in the dictionary
	SeriesPerAgent int
	ClosedEpochs   int // of one agent; none is ever forgotten, since its batches would be taken again
	RecentLines    int // in the window in which repeats are found: 34 bytes of memory each when it is full
	RetentionCuts  int // remembered; the oldest is forgotten first
	AuditRecords   int // kept; the oldest goes first
	AuditBytes     int64
}

// DefaultLimits returns the limits of format 1.
func DefaultLimits() Limits {
	return Limits{
		Agents: 100_000, Series: 5_000_000, SeriesPerAgent: 50_000, ClosedEpochs: 1024,
		RecentLines: 1 << 19, RetentionCuts: 1000, AuditRecords: 200_000, AuditBytes: 256 << 20,
	}
}

// Machine applies entries to a store. It belongs to the apply goroutine, except for what its methods say.
type Machine struct {
	store *meta.Store
	coder *wire.Coder
	lim   Limits
	// decoded has what the node knows of bodies already; nil for nothing.
	decoded *wire.Decoded

	raw     []byte // the metrics body at hand, decompressed
	line    []byte // the line at hand, as it is hashed
	metrics wire.MetricsBody
	ids     []uint64
	bodies  int // bytes of the bodies of the entry at hand, decompressed
	// verdict is what becomes of the command at hand, for those who read the log later. It decides nothing.
	verdict command.CommandVerdict
}

// New makes a machine over store, which it does not own.
func New(store *meta.Store, coder *wire.Coder, lim Limits) *Machine {
	return &Machine{store: store, coder: coder, lim: lim}
}

// TakeFrom has the machine take log bodies from d that were decoded before. It changes nothing of what Apply does.
func (m *Machine) TakeFrom(d *wire.Decoded) { m.decoded = d }

// Apply applies the entry index and appends to g what it brings to the stores. It returns a result for each
// command, in order. An error wraps ErrUnknownCommand, and then nothing was applied. Entries must come in the
// order of the log, and g to Finish before the state is frozen.
func (m *Machine) Apply(index, term uint64, e command.Entry, g *Group) ([]command.Result, error) {
	if err := m.check(e); err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	if g.LastIndex != 0 && EndsGroup(e) {
		panic(fmt.Sprintf("entry %d takes lines out of digests that are not published: finish the group before it", index))
	}
	tx := m.store.Begin(index, e.Stamp, &g.Meta)
	defer tx.End()
	g.begin(index, term, tx.LogTime())
	m.bodies = 0
	results := make([]command.Result, len(e.Commands))
	var verdict command.Verdict
	for i := range e.Commands {
		r := &results[i]
		m.verdict = command.CommandVerdict{At: i}
		m.apply(tx, i, e.Commands[i], g, r)
		r.Index = index
		if r.Status != command.StatusOK {
			m.verdict = command.CommandVerdict{At: i, Status: r.Status}
		}
		if v := &m.verdict; v.Status != command.StatusOK || v.Moved || len(v.Refused) > 0 {
			verdict.Commands = append(verdict.Commands, *v)
		}
	}
	if len(verdict.Commands) > 0 {
		verdict.LogTime = tx.LogTime()
		g.Verdicts = append(g.Verdicts, IndexedVerdict{Index: index, Body: verdict.Append(nil)})
	}
	return results, nil
}

// check finds what this program cannot apply before anything is changed.
func (m *Machine) check(e command.Entry) error {
	for i, c := range e.Commands {
		if !command.Known(c.Type, c.Version) {
			if c.Type.MayIgnore() {
				continue
			}
			return fmt.Errorf("command %d: %s version %d: %w", i, c.Type, c.Version, ErrUnknownCommand)
		}
		if c.Type == command.TypeSetFormat {
			if n, err := command.DecodeSetFormat(c); err == nil && n > Format {
				return fmt.Errorf("command %d: format %d, this program knows %d: %w", i, n, Format, ErrUnknownCommand)
			}
		}
	}
	return nil
}

// apply applies the command that stands at place `at` of its entry.
func (m *Machine) apply(tx *meta.Tx, at int, c command.Command, g *Group, r *command.Result) {
	if !command.Known(c.Type, c.Version) {
		r.Detail = fmt.Sprintf("%s version %d was passed over", c.Type, c.Version)
		return
	}
	var err error
	switch c.Type &^ command.Ignorable {
	case command.TypeSetFormat:
		err = setFormat(tx, m.store.Format(), c, r)
	case command.TypeTick:
		_, err = command.DecodeTick(c)
	case command.TypeBatch:
		err = m.batch(tx, c, g, r)
	case command.TypeOpenEpoch:
		err = m.openEpoch(tx, c, r)
	case command.TypeRegisterSeries:
		err = m.registerSeries(tx, c, r)
	case command.TypeCollectSeries:
		err = collectSeries(tx, c, r)
	case command.TypeHeartbeats:
		err = heartbeats(tx, c, r)
	case command.TypeMetaTxn:
		err = m.metaTxn(tx, c, r)
	case command.TypeRetentionCut:
		err = m.retentionCut(tx, at, c)
	case command.TypeDeliver:
		err = m.deliver(tx, c, g, r)
	case command.TypeForgetAgent:
		err = forgetAgent(tx, c, r)
	case command.TypeSelectorCut:
		err = m.selectorCut(tx, c, r)
	}
	if err != nil {
		*r = command.Result{Status: command.StatusInvalid, Detail: command.Bounded(err.Error())}
	}
}

func setFormat(tx *meta.Tx, now uint32, c command.Command, r *command.Result) error {
	n, err := command.DecodeSetFormat(c)
	if err != nil {
		return err
	}
	if n < now {
		r.Status = command.StatusInvalid
		r.Detail = fmt.Sprintf("the cluster's format is %d: it cannot go back to %d", now, n)
		return nil
	}
	tx.SetFormat(n)
	return nil
}

// BucketRetentionCuts holds the newest cuts that removed something, by index of the entry (20 digits), a dot and
// the place of the command in the entry (4 digits):
//
//	{"at": log time in milliseconds, "kind": "logs", "floor": milliseconds since 1970, "reason": "age"}
//
// What a cut removed lies between the floor of the cut of the same kind before it and its own.
const BucketRetentionCuts = "retention_cuts"

// MinRetention is the time behind log time, in milliseconds, that no cut reaches into: a floor is final, and one that a
// faulty caller set ahead of the present would refuse everything for good.
const MinRetention = 3600 * 1000

func (m *Machine) retentionCut(tx *meta.Tx, at int, c command.Command) error {
	cut, err := command.DecodeRetentionCut(c)
	if err != nil {
		return err
	}
	if cut.Floor > tx.LogTime()-MinRetention {
		return fmt.Errorf("floor %d lies within the last hour before the cluster's time %d", cut.Floor, tx.LogTime())
	}
	if !tx.RaiseFloor(cut.Kind, cut.Floor) {
		return nil
	}
	dropSelectorCuts(tx, cut.Kind, cut.Floor)
	keys := tx.Keys(BucketRetentionCuts)
	for i := 0; len(keys)-i >= max(1, m.lim.RetentionCuts); i++ {
		tx.Delete(BucketRetentionCuts, keys[i])
	}
	value := fmt.Appendf(nil, `{"at":%d,"kind":"%s","floor":%d,"reason":"%s"}`, tx.LogTime(), cut.Kind, cut.Floor, cut.Reason)
	tx.Put(BucketRetentionCuts, fmt.Sprintf("%020d.%04d", tx.Index(), at), value, 0)
	return nil
}

// Finish adds the group's digests, computing those that HashShard did not, and publishes its last entry as
// applied. Call it after the stores took the group.
func (m *Machine) Finish(g *Group) {
	if g.LastIndex == 0 {
		return
	}
	m.store.Publish(g.LastIndex, g.term, g.digests())
}
