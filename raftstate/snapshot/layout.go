// Package snapshot knows the files of a node's state: the generations of its stores and which of them is
// current, and the image of a whole state that a leader streams to a node that must install (the same serves as
// a backup).
//
// It promises: Flip changes the current generation atomically and durably; an image that Unpack accepted is
// complete, checked by CRC and on stable storage. It knows nothing of raft and must not import other packages
// of Triward.
package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kinds of stores, which are the names of their directories below the data directory and the first element of
// paths in an image.
const (
	KindMetrics = "tsdb"
	KindLogs    = "logs"
	KindMeta    = "meta"
)

// Kinds lists the stores of a node.
var kinds = [...]string{KindMetrics, KindLogs, KindMeta}

const (
	currentFile     = "CURRENT"
	generationStart = "gen-"
	imageStart      = "image-"
)

// ErrCurrent says that the file which names the generation in use is not what was written.
var ErrCurrent = errors.New("it is not known which data is current")

// Layout is where the stores of a node lie: root/<kind>/<generation>, with root/meta/CURRENT naming the
// generation in use.
type Layout struct{ root string }

// NewLayout returns the layout below the data directory root.
func NewLayout(root string) Layout { return Layout{root: root} }

// Dir returns the directory of a store in a generation.
func (l Layout) Dir(kind, generation string) string { return filepath.Join(l.root, kind, generation) }

// MetaFile returns the metadata file of a generation.
func (l Layout) MetaFile(generation string) string {
	return filepath.Join(l.Dir(KindMeta, generation), "meta.db")
}

// ImageDir returns where an image of the store is cut: beside its generations, so that hard links work.
func (l Layout) ImageDir(kind, id string) string { return filepath.Join(l.root, kind, imageStart+id) }

// Current returns the generation in use; "" when the node has none yet.
func (l Layout) Current() (string, error) {
	b, err := os.ReadFile(filepath.Join(l.root, KindMeta, currentFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read current generation: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if _, ok := number(name); !ok {
		return "", fmt.Errorf("file %s names no generation: %.100q: %w", filepath.Join(l.root, KindMeta, currentFile), name, ErrCurrent)
	}
	return name, nil
}

func number(generation string) (uint64, bool) {
	digits, ok := strings.CutPrefix(generation, generationStart)
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok && err == nil
}

// Next returns a generation name greater than every one that exists, and makes its directories.
func (l Layout) Next() (string, error) {
	var top uint64
	for _, kind := range kinds {
		names, err := l.list(kind)
		if err != nil {
			return "", err
		}
		for _, name := range names {
			if n, ok := number(name); ok && n > top {
				top = n
			}
		}
	}
	name, err := l.claim(top + 1)
	if err != nil {
		return "", fmt.Errorf("make generation: %w", err)
	}
	for _, kind := range kinds {
		if err := os.MkdirAll(l.Dir(kind, name), 0o700); err != nil {
			return "", fmt.Errorf("make generation: %w", err)
		}
	}
	return name, nil
}

// claim makes the directory of metadata of the first generation from number on that nobody else has taken: an install and a
// repair may look for one at the same moment.
func (l Layout) claim(number uint64) (string, error) {
	if err := os.MkdirAll(filepath.Join(l.root, KindMeta), 0o700); err != nil {
		return "", err
	}
	for ; ; number++ {
		name := fmt.Sprintf("%s%06d", generationStart, number)
		if err := os.Mkdir(l.Dir(KindMeta, name), 0o700); !errors.Is(err, os.ErrExist) {
			return name, err
		}
	}
}

func (l Layout) list(kind string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(l.root, kind))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list generations: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Flip makes generation the current one, atomically and durably. What lies in it must be durable already.
func (l Layout) Flip(generation string) error {
	for _, kind := range kinds { // the names of the new directories themselves
		if err := syncDir(filepath.Join(l.root, kind)); err != nil {
			return err
		}
	}
	dir := filepath.Join(l.root, KindMeta)
	tmp := filepath.Join(dir, currentFile+".new")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write current generation: %w", err)
	}
	_, err = f.WriteString(generation + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write current generation: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, currentFile)); err != nil {
		return fmt.Errorf("flip to generation %s: %w", generation, err)
	}
	return syncDir(dir)
}

// Clean removes all generations except those to keep, and all images. It is called at start, before stores are open.
func (l Layout) Clean(keep ...string) error {
	for _, kind := range kinds {
		names, err := l.list(kind)
		if err != nil {
			return err
		}
		for _, name := range names {
			_, generation := number(name)
			if slices.Contains(keep, name) || !generation && !strings.HasPrefix(name, imageStart) {
				continue
			}
			if err := os.RemoveAll(l.Dir(kind, name)); err != nil {
				return fmt.Errorf("remove left-over %s: %w", l.Dir(kind, name), err)
			}
		}
	}
	return nil
}

// Remove removes a generation that is not in use.
func (l Layout) Remove(generation string) error {
	var errs []error
	for _, kind := range kinds {
		errs = append(errs, os.RemoveAll(l.Dir(kind, generation)))
	}
	return errors.Join(errs...)
}

// EmptyStore makes a store of a generation that is not in use empty.
func (l Layout) EmptyStore(kind, generation string) error {
	dir := l.Dir(kind, generation)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("empty store: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("empty store: %w", err)
	}
	return nil
}

// RemoveImage removes an image.
func (l Layout) RemoveImage(id string) error {
	var errs []error
	for _, kind := range kinds {
		errs = append(errs, os.RemoveAll(l.ImageDir(kind, id)))
	}
	return errors.Join(errs...)
}

// Sync makes everything on the file systems of the generation's stores durable, each file system once. Its
// errors are final: what failed to reach the disk may be lost although a second call would succeed.
func (l Layout) Sync(generation string) error {
	done := make(map[uint64]bool, len(kinds))
	for _, kind := range kinds {
		if err := syncFS(l.Dir(kind, generation), done); err != nil {
			return err
		}
	}
	return nil
}

func syncFS(dir string, done map[uint64]bool) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync file system: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("sync file system of %s: %w", dir, err)
	}
	if done[st.Dev] {
		return nil
	}
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", dir, err)
	}
	done[st.Dev] = true
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
