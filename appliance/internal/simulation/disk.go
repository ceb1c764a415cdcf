package simulation

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// disk is the file system of a node's log. Files lie where the machine keeps them, and the disk knows what of them is
// not on stable storage: what was written since the last Sync, and files of which not even the name is. A loss of power
// takes any part of that away, sector by sector.
type disk struct {
	*walfs.FS
	owner *process

	mu    sync.Mutex
	files map[string]*diskFile
	delay time.Duration // of a sync, at most
	stuck chan struct{} // syncs wait for it; nil: none is stuck
	eio   bool          // the next sync fails
	free  int64         // what the file system says it has left; 0: enough
}

// diskFile is what is not stable of one file.
type diskFile struct {
	path    string
	named   bool // the name is on stable storage
	pending []write
}

// write is a change that was not synced.
type write struct {
	at       int64
	old, new []byte // of the same length; what lay beyond the end of the file is zero
}

const sector = 512

func newDisk(owner *process) *disk {
	return &disk{FS: walfs.New(), owner: owner, files: make(map[string]*diskFile), delay: 2 * time.Millisecond}
}

// Create implements types.VFS.
func (d *disk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := d.FS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	return d.track(f, filepath.Join(dir, name), false), nil
}

// OpenWriter implements types.VFS.
func (d *disk) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := d.FS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return d.track(f, filepath.Join(dir, name), true), nil
}

// Delete implements types.VFS.
func (d *disk) Delete(dir, name string) error {
	d.mu.Lock()
	delete(d.files, filepath.Join(dir, name))
	d.mu.Unlock()
	return d.FS.Delete(dir, name)
}

func (d *disk) track(f types.WritableFile, path string, named bool) types.WritableFile {
	d.mu.Lock()
	defer d.mu.Unlock()
	state := d.files[path]
	if state == nil {
		state = &diskFile{path: path, named: named}
		d.files[path] = state
	}
	return &trackedFile{WritableFile: f, d: d, state: state}
}

type trackedFile struct {
	types.WritableFile
	d     *disk
	state *diskFile
}

// WriteAt implements io.WriterAt.
func (f *trackedFile) WriteAt(p []byte, at int64) (int, error) {
	if !f.d.owner.hold() {
		return 0, errDead
	}
	w := write{at: at, old: make([]byte, len(p)), new: append([]byte(nil), p...)}
	if _, err := f.ReadAt(w.old, at); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	f.d.mu.Lock()
	f.state.pending = append(f.state.pending, w)
	f.d.mu.Unlock()
	return f.WritableFile.WriteAt(p, at)
}

// Sync makes durable what was written before. It takes a while, and a crash may fall into it.
func (f *trackedFile) Sync() error {
	d := f.d
	d.mu.Lock()
	began, delay, stuck, eio := len(f.state.pending), d.delay, d.stuck, d.eio
	d.eio = false
	d.mu.Unlock()
	if eio {
		return syscall.EIO
	}
	if stuck != nil {
		select {
		case <-stuck:
		case <-d.owner.dead:
			return errDead
		}
	}
	if !d.owner.sleep(rand.N(delay)) || !d.owner.hold() {
		return errDead
	}
	d.mu.Lock()
	f.state.named = true
	f.state.pending = append([]write(nil), f.state.pending[began:]...)
	d.mu.Unlock()
	if !d.owner.sleep(rand.N(delay) / 4) { // durable, and nobody knows yet
		return errDead
	}
	return nil
}

func (d *disk) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// freeBytes is what the node is told of its file system.
func (d *disk) freeBytes(string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.free != 0 {
		return d.free, nil
	}
	return 1 << 40, nil
}

// losePower changes the copy of the node's directory in to, which was made just now, to what a loss of power may have
// left of from.
func (d *disk) losePower(from, to string, r *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, state := range d.files {
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		copied := filepath.Join(to, rel)
		if !state.named && r.IntN(2) == 0 {
			if err := os.Remove(copied); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if err := state.tear(copied, r); err != nil {
			return err
		}
	}
	// The reach of the log is noted without a sync.
	if r.IntN(3) == 0 {
		if err := os.Truncate(filepath.Join(to, "raft", "REACH"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// tear takes back what was not synced: of each write everything, nothing or what lies in some of the sectors.
func (s *diskFile) tear(path string, r *rand.Rand) error {
	if len(s.pending) == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer f.Close()
	for i := len(s.pending) - 1; i >= 0; i-- {
		w := s.pending[i]
		mode := r.IntN(3)
		for lo := 0; lo < len(w.old); {
			hi := min(len(w.old), lo+sector-int((w.at+int64(lo))%sector))
			if mode == 0 || mode == 1 && r.IntN(2) == 0 {
				if _, err := f.WriteAt(w.old[lo:hi], w.at+int64(lo)); err != nil {
					return err
				}
			}
			lo = hi
		}
	}
	return nil
}

// copyAttempts bounds how often a directory is copied anew because it changed meanwhile.
const copyAttempts = 100

// copyTree copies a directory as it is at one moment: a manifest must not name files that came after the directory was
// read. What writes beside, in goroutines that do not wait for virtual time, soon stands still: time does.
func copyTree(from, to string) error {
	for range copyAttempts {
		before, err := listTree(from)
		if err != nil {
			return err
		}
		if err := copyFiles(from, to); err != nil {
			return err
		}
		after, err := listTree(from)
		if err != nil {
			return err
		}
		if maps.Equal(before, after) {
			return nil
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s does not come to rest", from)
}

// looks is what tells that a file was written to.
type looks struct {
	size     int64
	modified time.Time
}

func listTree(root string) (map[string]looks, error) {
	files := make(map[string]looks)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			files[path] = looks{info.Size(), info.ModTime()}
		}
		return err
	})
	return files, err
}

func copyFiles(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(dst, 0o700)
		}
		// One read from the front: of a bbolt file the page that names the others comes first.
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(dst, b, 0o600)
	})
}
