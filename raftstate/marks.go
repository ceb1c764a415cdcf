package raftstate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// marks is raft's snapshot store. Its snapshots are marks (DESIGN D1): the watermark in the metadata file says
// up to where the stores on this node's disk hold the log. Data is copied only when a peer must install.
type marks struct{ n *Node }

const (
	markPrefix  = "mark-"
	imagePrefix = "image-"
)

// Create implements raft.SnapshotStore. Raft calls it before a mark, and before the image of another node
// arrives; the sink tells which by what happens to it.
func (s marks) Create(
	version raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("snapshot version %d is not supported", version)
	}
	return &markSink{n: s.n, index: index, term: term, config: c, configIndex: ci}, nil
}

// List implements raft.SnapshotStore.
func (s marks) List() ([]*raft.SnapshotMeta, error) {
	m := s.n.mark.Load()
	if m.Index == 0 {
		return nil, nil
	}
	return []*raft.SnapshotMeta{snapshotMeta(fmt.Sprintf("%s%d-%d", markPrefix, m.Index, m.Term), m)}, nil
}

func snapshotMeta(id string, m *meta.Mark) *raft.SnapshotMeta {
	sm := &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: id, Index: m.Index, Term: m.Term, ConfigurationIndex: m.ConfigurationIndex,
	}
	if len(m.Configuration) > 0 {
		sm.Configuration = raft.DecodeConfiguration(m.Configuration)
	}
	return sm
}

// Open implements raft.SnapshotStore: a staged image of this node, or an image for a peer.
func (s marks) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if generation, ok := strings.CutPrefix(id, imagePrefix); ok {
		st := s.n.staged.Load()
		if st == nil || st.generation != generation {
			return nil, nil, fmt.Errorf("no staged image %s", generation)
		}
		return snapshotMeta(id, &st.mark), io.NopCloser(strings.NewReader(generation)), nil
	}
	img, err := s.n.images.open()
	if err != nil {
		return nil, nil, err
	}
	sm := snapshotMeta(id, &img.mark)
	sm.Size = img.image.Size()
	return sm, img.reader(), nil
}

// markSink is one mark or one install on its way.
type markSink struct {
	n           *Node
	index, term uint64
	config      raft.Configuration
	configIndex uint64
	stage       *stage // of an install; nil for a mark
}

// ID implements raft.SnapshotSink.
func (s *markSink) ID() string {
	if s.stage != nil {
		return imagePrefix + s.stage.generation
	}
	return fmt.Sprintf("%s%d-%d", markPrefix, s.index, s.term)
}

// Write implements raft.SnapshotSink: a piece of another node's image.
func (s *markSink) Write(p []byte) (int, error) {
	if s.stage == nil {
		if err := s.n.overtook(s.index); err != nil {
			return 0, err
		}
		stage, err := s.n.newStage()
		if err != nil {
			return 0, err
		}
		s.stage = stage
	}
	return s.stage.pipe.Write(p)
}

// Close implements raft.SnapshotSink. The image, if there is one, is complete, checked and durable then.
func (s *markSink) Close() error {
	if s.stage == nil {
		return nil
	}
	return s.stage.finish(s.index, s.term)
}

// Cancel implements raft.SnapshotSink.
func (s *markSink) Cancel() error {
	if s.stage == nil {
		return nil
	}
	return s.stage.abandon(errors.New("transfer was cut"))
}

// mark makes the frozen state and all that the stores were given before it durable.
func (s *markSink) mark(z *freeze) error {
	n := s.n
	if s.index != z.frozen.Index || s.term != z.frozen.Term {
		return fmt.Errorf("state is frozen at entry %d, raft's mark is %d", z.frozen.Index, s.index)
	}
	release, err := n.durable()
	if err != nil {
		return err
	}
	defer release()
	f := n.fsm
	f.mu.Lock()
	current := f.freezes == z.number && !f.failed.Load()
	f.mu.Unlock()
	if !current {
		return errSuperseded
	}
	return n.commit(z.frozen, meta.Mark{
		Index: s.index, Term: s.term,
		Configuration: raft.EncodeConfiguration(s.config), ConfigurationIndex: s.configIndex,
	})
}

// durable serialises what makes state durable: marks, images and swaps.
func (n *Node) durable() (release func(), err error) {
	select {
	case n.durably <- struct{}{}:
		return func() { <-n.durably }, nil
	case <-n.closing:
		return nil, ErrStopped
	}
}

// flushTimeout bounds what the stores may take to hand over their memory.
const flushTimeout = 2 * time.Minute

// commit is the durable step of a mark: the stores first, the watermark last. It is called with durable held.
// A full disk fails the mark, and the next one tries again; any other failure is fatal, since a second fsync
// would not tell what the first one lost.
func (n *Node) commit(frozen *meta.Frozen, m meta.Mark) error {
	began := time.Now()
	m.Generation = n.generation
	ctx, cancel := context.WithTimeout(n.ctx, flushTimeout)
	defer cancel()
	err := inParallel([]func() error{
		func() error { return wrap("flush store of metrics", n.fsm.sinks.Metrics.Flush(ctx)) },
		func() error { return wrap("flush store of logs", n.fsm.sinks.Logs.Flush(ctx)) },
		func() error { return n.fsm.verdicts.Commit(m.Index, n.oldestVerdict(m.Index)) },
	}, true)
	final := false
	if err == nil {
		err = n.layout.Sync(n.generation)
		final = err != nil
	}
	if err == nil {
		err = wrap("commit the watermark", frozen.Commit(m))
	}
	if err != nil {
		if !final && diskFull(err) || n.ctx.Err() != nil {
			return fmt.Errorf("mark at entry %d: %w", m.Index, err)
		}
		n.fatal(brokenDisk("mark", err))
		return err
	}
	n.mark.Store(&m)
	n.fsm.sinks.Logs.Durable(m.Index)
	now := time.Now()
	n.markedAt.Store(&now)
	n.retain()
	if n.started.Load() {
		n.noteMembers()
	}
	took := time.Since(began)
	n.metrics.marks.Observe(took.Seconds())
	n.log.Debug("mark", "index", m.Index, "took", took)
	return nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// retain tells raft, whose limits count entries, how many of them the queue's retention in bytes and time is; the
// least possible while the disk is nearly full.
func (n *Node) retain() {
	r := n.raft.Load()
	if r == nil {
		return
	}
	var notBefore time.Time
	if n.cfg.QueueAge > 0 {
		notBefore = time.Now().Add(-n.cfg.QueueAge)
	}
	rc := r.ReloadableConfig()
	rc.TrailingLogs = minTrailing
	if room, _ := n.store.Room(); room == logfile.RoomAmple {
		rc.TrailingLogs = max(minTrailing, n.store.Newest(n.cfg.QueueBytes, notBefore))
	}
	if err := r.ReloadConfig(rc); err != nil {
		n.log.Error("set the retention of the log", "err", err)
	}
}

// readMark returns the watermark of the metadata in an image, which must be of a format that this program knows.
func (n *Node) readMark(file string) (meta.Mark, error) {
	if err := meta.Check(file); err != nil {
		return meta.Mark{}, fmt.Errorf("metadata of image: %w", err)
	}
	s, err := meta.Open(file, slog.New(slog.DiscardHandler))
	if errors.Is(err, meta.ErrVersion) {
		err = fmt.Errorf("%w: %w", snapshot.ErrNewer, err)
	}
	if err != nil {
		return meta.Mark{}, fmt.Errorf("metadata of image: %w", err)
	}
	m, ok := s.Mark()
	format := s.Format()
	if err := s.Close(); err != nil {
		return meta.Mark{}, fmt.Errorf("metadata of image: %w", err)
	}
	switch {
	case !ok:
		return meta.Mark{}, fmt.Errorf("metadata has no watermark: %w", snapshot.ErrImage)
	case format > n.cfg.format:
		return meta.Mark{}, fmt.Errorf("%w: its state has %d, this program knows up to %d", snapshot.ErrNewer, format, n.cfg.format)
	}
	return m, nil
}
