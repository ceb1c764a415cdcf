package raftstate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// keyTerm is where raft keeps its current term.
var keyTerm = []byte("CurrentTerm")

// Restored is an image being made the state of a node that has none yet. Nothing of it counts before Found.
type Restored struct {
	Header snapshot.Header
	About  meta.Summary

	layout     snapshot.Layout
	dir        string
	generation string
	emptyLogs  bool // the store of logs was put in the place of what was unpacked
}

// RestoreImage unpacks an image into the data directory dir, in which no node has a state, and checks it: each file
// by its CRC, the metadata record by record. The files are durable when it returns. On error what it wrote is gone.
func RestoreImage(ctx context.Context, dir string, image io.Reader) (_ *Restored, err error) {
	layout := snapshot.NewLayout(dir)
	current, err := layout.Current()
	if err != nil {
		return nil, err
	}
	if current != "" {
		return nil, fmt.Errorf("restore into %s: it holds the state of a node already", dir)
	}
	r := &Restored{layout: layout, dir: dir}
	if r.generation, err = layout.Next(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Abandon())
		}
	}()
	dirs := map[string]string{}
	for _, kind := range []string{snapshot.KindMetrics, snapshot.KindLogs, snapshot.KindMeta} {
		dirs[kind] = layout.Dir(kind, r.generation)
	}
	if r.Header, err = snapshot.Unpack(ctx, image, dirs, machine.Format); err != nil {
		return nil, err
	}
	if r.About, err = meta.Summarize(layout.MetaFile(r.generation)); err != nil {
		return nil, fmt.Errorf("metadata of image: %w: %w", snapshot.ErrImage, err)
	}
	if m := r.About.Mark; m.Index != r.Header.Index || m.Term != r.Header.Term {
		return nil, fmt.Errorf("image says that it is of entry %d, its metadata is of %d: %w", r.Header.Index, m.Index, snapshot.ErrImage)
	}
	return r, nil
}

// MetricsDir is where the unpacked store of metrics lies, for a look before Found.
func (r *Restored) MetricsDir() string { return r.layout.Dir(snapshot.KindMetrics, r.generation) }

// LogsDir is where the unpacked store of logs lies, for a look before Found.
func (r *Restored) LogsDir() string { return r.layout.Dir(snapshot.KindLogs, r.generation) }

// Found makes the image the state of a new cluster whose only member is self, whose address peers are told. The
// cluster goes on at the image's index and term, so that entries and votes of the old one can never be taken for its
// own. change edits the metadata first. The last step is the one that counts: until it is done the directory has no
// state, afterwards a node can be opened on it.
func (r *Restored) Found(self Server, change func(tx *meta.Tx) error) error {
	if !nodeIDForm.MatchString(self.ID) {
		return fmt.Errorf("restore: node id %q is not valid", self.ID)
	}
	err := meta.Renew(r.layout.MetaFile(r.generation), change, func(m *meta.Mark) {
		m.Configuration = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
			{Suffrage: raft.Voter, ID: raft.ServerID(self.ID), Address: raft.ServerAddress(self.Addr)},
		}})
		m.ConfigurationIndex, m.Generation = m.Index, r.generation
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := r.beginLog(self.ID); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := r.layout.Sync(r.generation); err != nil {
		return err
	}
	return r.layout.Flip(r.generation)
}

// beginLog makes an empty log that belongs to the node and has reached the image's term.
func (r *Restored) beginLog(node string) (err error) {
	store, err := logfile.Open(filepath.Join(r.dir, raftDir), logfile.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	last, err := store.LastIndex()
	if err != nil {
		return err
	}
	if last != 0 {
		return fmt.Errorf("log in %s is not empty", store.Dir())
	}
	if err := store.SetUint64(keyTerm, r.About.Mark.Term); err != nil {
		return fmt.Errorf("write term: %w", err)
	}
	if err := store.Set([]byte(identityKey), []byte(node)); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// Abandon removes what was unpacked. It must not be called once Found has succeeded.
func (r *Restored) Abandon() error {
	err := r.layout.Remove(r.generation)
	if e := os.RemoveAll(filepath.Join(r.dir, raftDir)); e != nil {
		err = errors.Join(err, fmt.Errorf("remove unfinished log: %w", e))
	}
	return err
}
