package index

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/blevesearch/bleve/v2/index/scorch"
	bolt "go.etcd.io/bbolt"
)

// Verify compares the index of a day with the checksums of its files, and its documents with those that must be there. pace
// is told of the bytes read, and its error ends the check. An error that wraps ErrUnusable asks for Drop.
func (d *Days) Verify(dayNo int64, name Name, pace func(bytes int) error) (err error) {
	dn := dayName{dayNo, name}
	must, err := d.expect(dayNo, name)
	if err != nil {
		return err
	}
	h, err := d.hold(dn)
	if err != nil {
		return err
	}
	defer d.release(h)
	defer rescue(&err)
	if err := pace(h.size()); err != nil {
		return err
	}
	return verdict(h.path, func() error {
		return errors.Join(h.check(must), checkStored(filepath.Join(h.path, "store", "root.bolt"), d.dir))
	})
}

// verifyTries is how often an index is read of which files are not there any more.
const verifyTries = 3

// verdict tells an index that is not what was written from one whose segments were merged while they were read, and from a
// system that did not let it be read.
func verdict(path string, check func() error) (err error) {
	for range verifyTries {
		if err = check(); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err == nil {
		return nil
	}
	for _, system := range [...]syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EACCES, syscall.EPERM, syscall.EINTR, syscall.EAGAIN, syscall.ENOSPC,
	} {
		if errors.Is(err, system) {
			return fmt.Errorf("verify word index %s: %w", path, err)
		}
	}
	return fmt.Errorf("%w: %s: %w", ErrUnusable, path, err)
}

// size returns what the segments in use take.
func (h *day) size() (n int) {
	r, err := h.raw.Reader()
	if err != nil {
		return 0
	}
	defer func() { _ = r.Close() }() // nothing was written
	snap, ok := r.(*scorch.IndexSnapshot)
	if !ok {
		return 0
	}
	for _, s := range snap.Segments() {
		if p, ok := s.Segment().(interface{ Path() string }); ok {
			if info, err := os.Stat(p.Path()); err == nil {
				n += int(info.Size())
			}
		}
	}
	return n
}

// checkStored reads the list of segments from a copy: Bleve has the file open, and locked, for itself. A file that changes
// while it is copied is left for the next time. What is left of a copy in scratch goes with Sweep.
func checkStored(path, scratch string) (err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	again, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(b, again) {
		return err
	}
	f, err := os.CreateTemp(scratch, "check-*")
	if err != nil {
		return nil // there is no room for a copy: nothing is known
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil
	}
	if err := checkRoot(f.Name()); err != nil {
		return err
	}
	db, err := bolt.Open(f.Name(), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bolt.Tx) error {
		root := tx.Bucket([]byte{'s'})
		if root == nil {
			return errors.New("root.bolt has no list of segments")
		}
		return root.ForEachBucket(func(epoch []byte) error { return walkBolt(root.Bucket(epoch)) })
	})
}

func walkBolt(b *bolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		if v == nil {
			return walkBolt(b.Bucket(k))
		}
		return nil
	})
}
