package raftstate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

const (
	imageMaxAge   = 10 * time.Minute
	imageIdle     = 2 * time.Minute  // an image that nobody reads is removed after this
	holdAfter     = 30 * time.Second // the log is held this long after an image was read, for the rest
	pauseTimeout  = time.Minute      // for stores to stand still before an image is cut
	applyTimeout  = 10 * time.Second // for the entries being applied
	oldGeneration = 30 * time.Second // readers of a replaced generation are gone after this
)

// images holds the image that peers install from. Raft asks again for each attempt, also for a peer that is
// down, so an image is used again as long as the log goes on from it, and a new one is only cut when a peer
// that answers needs it.
type images struct {
	n  *Node
	mu gate // held for as long as it takes to cut an image

	current *cutImage
	lastCut time.Time
	number  uint64
}

// cutImage is a state of this node at one index, on disk as hard links.
type cutImage struct {
	owner *images
	id    string
	mark  meta.Mark
	image *snapshot.Image
	made  time.Time

	// below: guarded by images.mu
	readers int
	gone    bool // no longer current: removed with the last reader
	timer   *time.Timer
}

// open returns an image that the log goes on from, with one reader more. The log is held.
func (im *images) open() (*cutImage, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	n := im.n
	hold := n.store.Hold() // before looking where the log begins
	defer hold()
	first, err := n.logBegins()
	if err != nil {
		return nil, err
	}
	if c := im.current; c != nil {
		if c.mark.Index >= first && time.Since(c.made) < imageMaxAge {
			c.readers++
			return c, nil
		}
		im.dropLocked(c)
	}
	if wait := n.cfg.InstallPause - time.Since(im.lastCut); wait > 0 && !im.lastCut.IsZero() {
		return nil, fmt.Errorf("next image can be cut in %s", wait.Round(time.Millisecond))
	}
	if !n.installWanted(first) {
		return nil, errors.New("no peer that answers needs an image")
	}
	im.lastCut = time.Now()
	im.number++
	c, err := n.cut(fmt.Sprintf("%d", im.number))
	if err != nil {
		return nil, fmt.Errorf("cut image: %w", err)
	}
	c.owner, c.made, c.readers = im, time.Now(), 1
	im.current = c
	return c, nil
}

// WriteImage streams an image of this node's state to w: a tar that an empty node can be started from. Apply
// stands still only while the stores are linked. It returns what the image is of.
func (n *Node) WriteImage(ctx context.Context, w io.Writer) (snapshot.Header, error) {
	n.images.mu.Lock()
	n.images.number++
	id := fmt.Sprint(n.images.number)
	n.images.mu.Unlock()
	c, err := n.cut(id)
	if err != nil {
		return snapshot.Header{}, fmt.Errorf("cut image: %w", err)
	}
	return c.image.Header, errors.Join(c.image.WriteTo(ctx, w), n.layout.RemoveImage(id))
}

// dropLocked forgets an image; its files go with the last reader.
func (im *images) dropLocked(c *cutImage) {
	if im.current == c {
		im.current = nil
	}
	c.gone = true
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.readers == 0 {
		if err := im.n.layout.RemoveImage(c.id); err != nil {
			im.n.log.Warn("remove image", "err", err)
		}
	}
}

func (im *images) close() {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.current != nil {
		im.dropLocked(im.current)
	}
}

// reader streams the image and keeps the log while it does and a while longer.
func (c *cutImage) reader() io.ReadCloser {
	return &imageReader{ReadCloser: c.image.Open(), c: c, hold: c.owner.n.store.Hold()}
}

type imageReader struct {
	io.ReadCloser
	c    *cutImage
	hold func()
	once sync.Once
}

// Close implements io.Closer.
func (r *imageReader) Close() error {
	err := r.ReadCloser.Close()
	r.once.Do(func() {
		im := r.c.owner
		im.n.after(holdAfter, r.hold)
		im.mu.Lock()
		defer im.mu.Unlock()
		r.c.readers--
		switch {
		case r.c.readers > 0:
		case r.c.gone:
			im.dropLocked(r.c)
		default:
			if r.c.timer != nil {
				r.c.timer.Stop()
			}
			r.c.timer = time.AfterFunc(imageIdle, func() { im.expire(r.c) })
		}
	})
	return err
}

func (im *images) expire(c *cutImage) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if c.readers == 0 && !c.gone {
		im.dropLocked(c)
	}
}

// logBegins returns the first entry that this node can send.
func (n *Node) logBegins() (uint64, error) {
	first, err := n.store.FirstIndex()
	if err != nil {
		return 0, err
	}
	if first == 0 {
		return n.mark.Load().Index + 1, nil
	}
	return first, nil
}

// installWanted asks the other members whether one of them is so far behind that the log does not reach it.
func (n *Node) installWanted(first uint64) bool {
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
	defer cancel()
	wanted := make(chan bool)
	asked := 0
	for _, m := range n.servers() {
		if m.ID == raft.ServerID(n.cfg.NodeID) {
			continue
		}
		asked++
		go func() {
			st, err := n.PeerStatus(ctx, string(m.ID))
			wanted <- err == nil && min(st.LastIndex, st.AppliedIndex) < first
		}()
	}
	found := false
	for range asked {
		found = <-wanted || found
	}
	return found
}

// cut makes an image of this node's state at one index: Apply stands still while the stores are linked, no
// longer. What is durable afterwards is also a mark.
func (n *Node) cut(id string) (*cutImage, error) {
	release, err := n.durable()
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(n.ctx, pauseTimeout)
	defer cancel()
	began := time.Now()
	resume, err := n.pause(ctx)
	if err != nil {
		return nil, err
	}
	defer resume()
	stood := time.Since(began)
	at, err := n.link(ctx, id)
	resume()
	if err != nil {
		return nil, errors.Join(err, n.layout.RemoveImage(id))
	}
	n.log.Info("image cut", "index", at.mark.Index, "apply_paused", at.pause, "stores_paused_after", stood)
	n.metrics.pauses.Observe(at.pause.Seconds())
	if err := n.commit(at.frozen, at.mark); err != nil {
		return nil, errors.Join(err, n.layout.RemoveImage(id))
	}
	at.mark.Generation = n.generation
	img, err := n.pack(id, at)
	if err != nil {
		return nil, errors.Join(err, n.layout.RemoveImage(id))
	}
	return &cutImage{id: id, mark: at.mark, image: img}, nil
}

func (n *Node) pack(id string, at linked) (*snapshot.Image, error) {
	dir := n.layout.ImageDir(snapshot.KindMeta, id)
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	if err := n.state.CopyTo(filepath.Join(dir, metaName)); err != nil {
		return nil, fmt.Errorf("copy metadata: %w", err)
	}
	h := snapshot.Header{ClusterFormat: at.format, Index: at.mark.Index, Term: at.mark.Term, Node: n.cfg.NodeID}
	return snapshot.NewImage(h, []snapshot.Part{
		{Name: snapshot.KindMetrics, Dir: n.layout.ImageDir(snapshot.KindMetrics, id)},
		{Name: snapshot.KindLogs, Dir: n.layout.ImageDir(snapshot.KindLogs, id)},
		{Name: snapshot.KindMeta, Dir: dir},
	})
}

// pause makes both stores stand still.
func (n *Node) pause(ctx context.Context) (func(), error) {
	resumeMetrics, err := n.fsm.sinks.Metrics.Pause(ctx)
	if err != nil {
		return nil, fmt.Errorf("pause store of metrics: %w", err)
	}
	resumeLogs, err := n.fsm.sinks.Logs.Pause(ctx)
	if err != nil {
		resumeMetrics()
		return nil, fmt.Errorf("pause store of logs: %w", err)
	}
	return sync.OnceFunc(func() { resumeLogs(); resumeMetrics() }), nil
}

// linked is the state at the index that an image is of.
type linked struct {
	frozen *meta.Frozen
	mark   meta.Mark
	format uint32
	pause  time.Duration // of Apply
}

// link holds Apply, freezes the deciding state and links the stores at the same index.
func (n *Node) link(ctx context.Context, id string) (linked, error) {
	f := n.fsm
	// Not for long: while Apply waits for room on a disk the stores must go on deleting.
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	if err := f.mu.LockContext(ctx); err != nil {
		return linked{}, fmt.Errorf("wait for apply: %w", err)
	}
	defer f.mu.Unlock()
	if f.failed.Load() {
		return linked{}, ErrStopped
	}
	began := time.Now()
	at := linked{
		mark: meta.Mark{
			Index: f.applied.Load(), Term: f.term,
			Configuration: raft.EncodeConfiguration(f.config), ConfigurationIndex: f.configIndex,
		},
		format: n.state.Format(),
	}
	f.freezes++
	at.frozen = n.state.Freeze(at.mark.Index, at.mark.Term)
	err := inParallel([]func() error{
		func() error {
			return wrap("cut store of metrics", f.sinks.Metrics.Cut(n.layout.ImageDir(snapshot.KindMetrics, id)))
		},
		func() error {
			return wrap("cut store of logs", f.sinks.Logs.Cut(n.layout.ImageDir(snapshot.KindLogs, id)))
		},
	}, true)
	at.pause = time.Since(began)
	return at, err
}

// stage is an image of another node that is being unpacked beside the current generation.
type stage struct {
	n          *Node
	generation string
	pipe       *io.PipeWriter
	done       chan struct{}
	header     snapshot.Header // and err: valid once done is closed
	err        error
}

// stagedImage is a generation that waits for Restore.
type stagedImage struct {
	generation string
	mark       meta.Mark
}

// errOvertaken refuses an image that is older than the state.
var errOvertaken = errors.New("the state is newer than the image")

// overtook returns errOvertaken when the state holds more than an image of the entry index. A leader that takes up an
// install late, for a member that it has let go and taken back meanwhile, sends one (hashicorp/raft 1.7.3 installs
// whatever comes), and readers who waited for an entry must not see the state go back behind it.
func (n *Node) overtook(index uint64) error {
	if at := n.fsm.applied.Load(); index < at {
		return fmt.Errorf("image of entry %d, entry %d is applied: %w", index, at, errOvertaken)
	}
	return nil
}

func (n *Node) newStage() (*stage, error) {
	if st := n.staged.Swap(nil); st != nil { // left by an install whose swap was refused
		_ = n.layout.Remove(st.generation)
	}
	generation, err := n.layout.Next()
	if err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	s := &stage{n: n, generation: generation, pipe: pw, done: make(chan struct{})}
	dirs := map[string]string{}
	for _, kind := range []string{snapshot.KindMetrics, snapshot.KindLogs, snapshot.KindMeta} {
		dirs[kind] = n.layout.Dir(kind, generation)
	}
	n.installing.Store(true)
	go func() {
		defer close(s.done)
		s.header, s.err = snapshot.Unpack(n.ctx, pr, dirs, n.cfg.format)
		_ = pr.CloseWithError(s.err)
	}()
	return s, nil
}

// finish waits for the image to be unpacked and durable and checks that it is the one announced.
func (s *stage) finish(index, term uint64) error {
	_ = s.pipe.Close()
	<-s.done
	err := s.err
	if err == nil && (s.header.Index != index || s.header.Term != term) {
		err = fmt.Errorf("image is of entry %d, entry %d was announced: %w", s.header.Index, index, snapshot.ErrImage)
	}
	var mark meta.Mark
	if err == nil {
		mark, err = s.n.readMark(s.n.layout.MetaFile(s.generation))
	}
	if err == nil && mark.Index != index {
		err = fmt.Errorf("metadata is of entry %d, entry %d was announced: %w", mark.Index, index, snapshot.ErrImage)
	}
	if err != nil {
		return s.abandon(err)
	}
	s.n.staged.Store(&stagedImage{generation: s.generation, mark: mark})
	return nil
}

// abandon removes what was staged; the state in use is not touched. A node that is too old for what the cluster has
// gone on to stops, as it would be sent the same again and again.
func (s *stage) abandon(err error) error {
	_ = s.pipe.CloseWithError(err)
	<-s.done
	s.n.installing.Store(false)
	removed := s.n.layout.Remove(s.generation)
	for _, e := range []error{err, s.err} {
		if errors.Is(e, snapshot.ErrNewer) {
			err = otherVersion("image", e)
			s.n.fatal(err)
			break
		}
	}
	return errors.Join(err, removed)
}

// swap makes the staged generation the current one. It runs in Apply's goroutine.
func (n *Node) swap(r io.Reader) error {
	defer n.installing.Store(false)
	name, err := io.ReadAll(io.LimitReader(r, 256))
	if err != nil {
		return err
	}
	st := n.staged.Swap(nil)
	if st == nil || st.generation != string(name) {
		return fmt.Errorf("staged image %q is gone", name)
	}
	release, err := n.durable()
	if err != nil {
		return err
	}
	defer release()
	f := n.fsm
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed.Load() {
		return ErrStopped
	}
	if err := n.overtook(st.mark.Index); err != nil {
		return errors.Join(err, n.layout.Remove(st.generation))
	}
	began := time.Now()
	if err := n.layout.Flip(st.generation); err != nil {
		f.failed.Store(true)
		n.fatal(brokenDisk("install", err)) // which generation is current is only known after a restart
		return err
	}
	old := n.generation
	n.useGeneration(st.generation)
	if err := n.openStores(); err != nil {
		f.failed.Store(true)
		n.fatal(brokenDisk("install", err))
		return err
	}
	goesOn, err := n.store.Follow(st.mark.Index, st.mark.Term, true)
	if err == nil && !goesOn {
		err = fmt.Errorf("the log holds other entries behind entry %d, whose image is installed", st.mark.Index)
	}
	if err != nil { // a start begins with an empty log
		f.failed.Store(true)
		n.fatal(&FatalError{Part: "install", Code: ExitStorage, Hint: hintRestart, Err: err})
		return err
	}
	f.freezes++
	f.verdicts.Jump(st.mark.Index)
	f.adopt(&st.mark)
	n.mark.Store(&st.mark)
	now := time.Now()
	n.markedAt.Store(&now)
	n.log.Info("image installed", "index", st.mark.Index, "swap", time.Since(began))
	f.observe(&Applied{Index: st.mark.Index, LogTime: n.state.LogTime(), Installed: true})
	f.waiters.wake(st.mark.Index)
	n.after(oldGeneration, func() {
		if err := n.layout.Remove(old); err != nil {
			n.log.Warn("remove replaced generation", "err", err)
		}
	})
	return nil
}

// adopt sets what Apply remembers to a mark.
func (f *fsm) adopt(m *meta.Mark) {
	f.applied.Store(m.Index)
	f.waiters.back(m.Index)
	f.term = m.Term
	f.configIndex = m.ConfigurationIndex
	if len(m.Configuration) > 0 {
		f.config = raft.DecodeConfiguration(m.Configuration)
	}
}

// openStores opens metadata and stores of the current generation, in the place of those open.
func (n *Node) openStores() error {
	if err := n.state.Reload(n.layout.MetaFile(n.generation)); err != nil {
		return fmt.Errorf("open metadata: %w", err)
	}
	if err := n.fsm.tellStores(true); err != nil {
		return err
	}
	mark, _ := n.state.Mark() // it may be before that of the state that was in use
	n.fsm.sinks.Logs.Durable(mark.Index)
	if err := n.fsm.sinks.Metrics.Open(n.layout.Dir(snapshot.KindMetrics, n.generation)); err != nil {
		return fmt.Errorf("open store of metrics: %w", err)
	}
	if err := n.fsm.sinks.Logs.Open(n.layout.Dir(snapshot.KindLogs, n.generation)); err != nil {
		return fmt.Errorf("open store of logs: %w", err)
	}
	return nil
}
