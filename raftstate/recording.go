package raftstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/meta"
)

// Nodes are compared at one index. Whoever compares writes a Marker into the metadata; every node records, when it
// applies exactly that entry, what it holds: the running digests at once, the deciding state by a mark of its own, which
// is read after that. How entries are grouped is each node's own, so the group ends there.

// The key of the metadata that makes nodes record, whenever it is written.
const (
	BucketIntegrity = "integrity"
	KeyMarker       = "marker"
)

// Marker is the value of KeyMarker as JSON.
type Marker struct {
	// Name tells this record from others.
	Name string `json:"name"`
	// Keys names tables (meta.Table) of which the hash of each record is recorded.
	Keys []string `json:"keys,omitempty"`
}

// Record is what a node held at exactly one entry.
type Record struct {
	Name    string
	State   meta.Summary
	Tables  []meta.Table
	Digests []meta.Digest                  // the running ones: those of State come from the file
	Keys    map[string]map[string]meta.Sum // by table and key
}

// recordsKept bounds the records a node holds, recordFor for how long, recordedKeys the keys of one table in one: with the
// tables that a comparison asks for they are some MB.
const (
	recordsKept  = 4
	recordFor    = 5 * time.Minute
	recordedKeys = 4096
)

// ErrNoRecord says that the node has no record of that name: it has not applied the entry yet, or has recorded others
// since.
var ErrNoRecord = errors.New("nothing was recorded under this name")

// recordings is the ring of the newest records.
type recordings struct {
	mu   sync.Mutex
	list []*recording
	more chan struct{} // closed when one is added
}

type recording struct {
	marker  Marker
	digests []meta.Digest
	frozen  *meta.Frozen
	mark    meta.Mark
	freezes uint64

	done chan struct{} // closed once record or err is set
	out  Record
	err  error
}

func (r *recordings) add(x *recording) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) == recordsKept {
		r.list = slices.Delete(r.list, 0, 1)
	}
	r.list = append(r.list, x)
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// drop forgets a record, unless newer ones have pushed it out.
func (r *recordings) drop(x *recording) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = slices.DeleteFunc(r.list, func(o *recording) bool { return o == x })
}

// find returns the record of the name, or what is closed when another is added.
func (r *recordings) find(name string) (*recording, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range slices.Backward(r.list) {
		if x.marker.Name == name {
			return x, nil
		}
	}
	if r.more == nil {
		r.more = make(chan struct{})
	}
	return nil, r.more
}

// asksToRecord reports whether one of the changes is of the marker.
func asksToRecord(changes []meta.Change) bool {
	return slices.Contains(changes, meta.Change{Bucket: BucketIntegrity, Key: KeyMarker})
}

// record notes what is held now: all that was applied is published. It is called by Apply.
func (f *fsm) record() {
	if f.recorded == nil {
		return
	}
	v, ok := f.store.Get(BucketIntegrity, KeyMarker)
	var m Marker
	if !ok || json.Unmarshal(v.Data, &m) != nil || m.Name == "" {
		return
	}
	index, sums := f.store.Digests()
	f.freezes++
	f.recorded(&recording{
		marker: m, digests: sums, freezes: f.freezes, frozen: f.store.Freeze(index, f.term),
		mark: meta.Mark{
			Index: index, Term: f.term, Configuration: raft.EncodeConfiguration(f.config), ConfigurationIndex: f.configIndex,
		},
		done: make(chan struct{}),
	})
}

// recorded makes the frozen state durable and reads it, beside Apply.
func (n *Node) recorded(x *recording) {
	select {
	case <-n.closing:
		return
	default:
	}
	n.records.add(x)
	n.wg.Go(func() {
		x.out, x.err = n.readRecord(x)
		x.frozen = nil
		close(x.done)
		if x.err != nil && n.ctx.Err() == nil {
			n.log.Warn("the state was not recorded for a comparison", "index", x.mark.Index, "name", x.marker.Name, "err", x.err)
		}
		wait := time.NewTimer(recordFor)
		defer wait.Stop()
		select {
		case <-wait.C:
			n.records.drop(x)
		case <-n.closing:
		}
	})
}

func (n *Node) readRecord(x *recording) (out Record, err error) {
	reading, err := n.commitRecord(x)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, reading.Close()) }()
	out = Record{Name: x.marker.Name, Digests: x.digests}
	if out.State, out.Tables, err = reading.Summary(); err != nil {
		return out, err
	}
	if len(x.marker.Keys) > 0 {
		out.Keys, err = reading.Keys(x.marker.Keys, recordedKeys)
	}
	return out, err
}

// commitRecord makes a mark of the frozen state and opens the file as of it, before there can be another one.
func (n *Node) commitRecord(x *recording) (*meta.Reading, error) {
	release, err := n.durable()
	if err != nil {
		return nil, err
	}
	defer release()
	n.fsm.mu.Lock()
	current := n.fsm.freezes == x.freezes && !n.fsm.failed.Load()
	n.fsm.mu.Unlock()
	if !current {
		return nil, errSuperseded
	}
	if err := n.commit(x.frozen, x.mark); err != nil {
		return nil, err
	}
	reading, err := n.state.Read()
	if err != nil {
		return nil, err
	}
	if got := reading.Mark().Index; got != x.mark.Index {
		return nil, errors.Join(fmt.Errorf("the state is of entry %d, entry %d was marked", got, x.mark.Index), reading.Close())
	}
	return reading, nil
}

// Recorded waits for the record of the name, as long as ctx lives. An error that matches ErrNoRecord says that ctx ended
// before there was any.
func (n *Node) Recorded(ctx context.Context, name string) (Record, error) {
	for {
		x, more := n.records.find(name)
		if x == nil {
			select {
			case <-more:
				continue
			case <-ctx.Done():
				return Record{}, fmt.Errorf("%w: %q", ErrNoRecord, name)
			case <-n.closing:
				return Record{}, ErrStopped
			}
		}
		select {
		case <-x.done:
			return x.out, x.err
		case <-ctx.Done():
			return Record{}, fmt.Errorf("record %q is being made: %w", name, ctx.Err())
		case <-n.closing:
			return Record{}, ErrStopped
		}
	}
}

// NewMarker is the operation that makes every node record.
func NewMarker(m Marker) (command.Op, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return command.Op{}, fmt.Errorf("encode marker: %w", err)
	}
	return command.Op{Bucket: BucketIntegrity, Key: KeyMarker, Value: b}, nil
}

// Settled returns the running digests once whatever the stores were being given when it was called is in them: what was
// read from a store before the call is of entries that they cover.
func (n *Node) Settled(ctx context.Context) (index uint64, sums []meta.Digest, err error) {
	if err := n.fsm.mu.LockContext(ctx); err != nil {
		return 0, nil, fmt.Errorf("wait for apply: %w", err)
	}
	defer n.fsm.mu.Unlock()
	if n.fsm.failed.Load() {
		return 0, nil, ErrStopped
	}
	index, sums = n.state.Digests()
	return index, sums, nil
}

// ScrubLog reads every entry of the log from its files, from the entry first on, and the log's small storage. pace is
// told of the bytes read, and its error ends the reading. Errors that match logfile.ErrCorrupt tell of damage.
func (n *Node) ScrubLog(ctx context.Context, first uint64, pace func(bytes int) error) error {
	for {
		err := n.store.Scrub(ctx, first, pace)
		index, ok := logfile.DamagedIndex(err)
		if !ok || !n.hideDamage(index, err) {
			return err
		}
		first = index + 1
	}
}

// ScrubState reads the whole metadata file as of its last commit. Errors that match meta.ErrDamaged tell of damage.
func (n *Node) ScrubState(pace func(bytes int) error) (path string, err error) {
	n.mendNames()
	reading, err := n.state.Read()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, reading.Close()) }()
	return reading.Path(), reading.Check(pace)
}

// Digest returns the running digests and the entry they are as of (DESIGN D8).
func (n *Node) Digest() (index uint64, sums []meta.Digest) { return n.state.Digests() }

// Accepted returns the running digests, the entry they are as of, and the newest entry by which selectors cut lines that
// they account for, 0 when there is none.
func (n *Node) Accepted() (index uint64, sums []meta.Digest, cut uint64, err error) {
	newest := func() (at uint64) {
		var list []wire.LogCut
		list, err = n.state.LogCuts()
		for i := range list {
			at = max(at, list[i].Index)
		}
		return at
	}
	// A cut changes digests within its entry, and the records of cuts are not read in the middle of one.
	for cut = newest(); err == nil; {
		index, sums = n.state.Digests()
		again := newest()
		if again == cut {
			break
		}
		cut = again
	}
	return index, sums, cut, err
}
