// Package boltcheck reads a bbolt file without mapping it and says whether it is what was written. Mapped, a truncated
// file kills the process, and bbolt panics or answers wrongly on most other damage.
//
// It checks the size of the file, the tree of pages and the list of free pages; what records carry is for the caller,
// who is shown each. It owns nothing and must not import anything of Triward.
package boltcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
)

// The parts of bbolt's file format (version 2) that Check reads. Numbers are in the byte order of the machine,
// which is little endian on all we build for.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	boltPageHeader = 16 // id 8, flags 2, count 2, overflow 4
	boltElement    = 16 // branch: pos 4, ksize 4, pgid 8; leaf: flags 4, pos 4, ksize 4, vsize 4
	boltBucket     = 16 // root 8, sequence 8

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	leafIsBucket = 0x01
	maxDepth     = 32
)

// PageSize is the page size of the files that are checked: they must be made with it.
const PageSize = 4096

// ErrDamaged is wrapped by errors about what the file holds, as opposed to a file that cannot be read.
var ErrDamaged = errors.New("file is damaged")

// Check reads the whole file path and shows each record to record, whose error it returns. Errors name the file.
func Check(path string, record func(bucket string, key, value []byte) error) error {
	return check(path, &checker{record: record})
}

// CheckAt is Check of a file that is being written: it looks at the transaction id, whose pages a reader must be keeping
// from being used again. pace is told of the bytes that are read, and its error ends the check.
func CheckAt(path string, id uint64, pace func(n int) error, record func(bucket string, key, value []byte) error) error {
	return check(path, &checker{record: record, txid: id, at: true, pace: pace})
}

func check(path string, c *checker) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("check file: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("check file: %w", err)
	}
	c.f, c.size = f, st.Size()
	if err := c.run(); err != nil {
		return fmt.Errorf("file %s: %w", path, err)
	}
	return nil
}

type checker struct {
	f    io.ReaderAt
	size int64
	high uint64 // pages below it are in use
	seen []bool // by page

	record func(bucket string, key, value []byte) error
	pace   func(n int) error // nil: as fast as it goes
	at     bool              // only the transaction txid counts
	txid   uint64
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

func (c *checker) run() error {
	root, freelist, err := c.meta()
	if err != nil {
		return err
	}
	if need := int64(c.high) * PageSize; c.size < need || c.high > 1<<40 {
		return damaged("it has %d bytes, %d are in use", c.size, need)
	}
	c.seen = make([]bool, c.high)
	c.seen[0], c.seen[1] = true, true
	if err := c.tree(root, "", nil, nil, 0); err != nil {
		return err
	}
	return c.freelist(freelist)
}

// meta reads the newest of the two meta pages that is whole, as bbolt does.
func (c *checker) meta() (root, freelist uint64, err error) {
	var newest uint64
	found := false
	for i := range int64(2) {
		var b [boltPageHeader + 64]byte
		if _, err := c.f.ReadAt(b[:], i*PageSize); err != nil {
			if errors.Is(err, io.EOF) || c.at && errors.Is(err, syscall.EIO) {
				continue
			}
			return 0, 0, err
		}
		m := b[boltPageHeader:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:56])
		le := binary.LittleEndian
		if le.Uint16(b[8:])&flagMeta == 0 || le.Uint32(m) != boltMagic || le.Uint32(m[4:]) != boltVersion ||
			le.Uint64(m[56:]) != sum.Sum64() || le.Uint32(m[8:]) != PageSize {
			continue
		}
		if txid := le.Uint64(m[48:]); (!c.at || txid == c.txid) && (!found || txid > newest) {
			found, newest = true, txid
			root, freelist, c.high = le.Uint64(m[16:]), le.Uint64(m[32:]), le.Uint64(m[40:])
		}
	}
	if !found && c.at {
		return 0, 0, damaged("no valid header of transaction %d in its %d bytes", c.txid, c.size)
	}
	if !found {
		return 0, 0, damaged("no valid header in its %d bytes", c.size)
	}
	if c.high < 4 {
		return 0, 0, damaged("only %d pages are in use", c.high)
	}
	return root, freelist, nil
}

// page reads a page with what overflows from it and marks it seen.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.high {
		return nil, damaged("page %d is referred to, %d are in use", id, c.high)
	}
	var head [boltPageHeader]byte
	if err := c.read(head[:], id); err != nil {
		return nil, err
	}
	if got := binary.LittleEndian.Uint64(head[:]); got != id {
		return nil, damaged("page %d says it is page %d", id, got)
	}
	over := uint64(binary.LittleEndian.Uint32(head[12:]))
	if over >= c.high-id {
		return nil, damaged("page %d runs beyond the pages in use", id)
	}
	for i := id; i <= id+over; i++ {
		if c.seen[i] {
			return nil, damaged("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	b := make([]byte, (over+1)*PageSize)
	if c.pace != nil {
		if err := c.pace(len(b)); err != nil {
			return nil, err
		}
	}
	return b, c.read(b, id)
}

// read reads from the beginning of a page. The end of the file is damage. What a disk cannot read is damage in a file that
// is in use; before it is, whoever opens it decides.
func (c *checker) read(b []byte, id uint64) error {
	_, err := c.f.ReadAt(b, int64(id)*PageSize)
	if errors.Is(err, io.EOF) || c.at && errors.Is(err, syscall.EIO) {
		return damaged("page %d: %v", id, err)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// tree checks the page id and all below it. Keys must lie in [low, high) (nil: no bound).
func (c *checker) tree(id uint64, bucket string, low, high []byte, depth int) error {
	if depth > maxDepth {
		return damaged("the tree of bucket %q is too deep", bucket)
	}
	b, err := c.page(id)
	if err != nil {
		return err
	}
	return c.elements(b, bucket, low, high, depth)
}

func (c *checker) elements(b []byte, bucket string, low, high []byte, depth int) error {
	if len(b) < boltPageHeader {
		return damaged("page of %d bytes in bucket %q", len(b), bucket)
	}
	id, flags := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint16(b[8:])
	n := int(binary.LittleEndian.Uint16(b[10:]))
	if flags != flagBranch && flags != flagLeaf {
		return damaged("page %d of bucket %q has the flags %#x", id, bucket, flags)
	}
	if n > (len(b)-boltPageHeader)/boltElement || (flags == flagBranch && n == 0) {
		return damaged("page %d of bucket %q claims %d elements", id, bucket, n)
	}
	keys := make([][]byte, n)
	for i := range n {
		e := b[boltPageHeader+i*boltElement:]
		pos, ksize := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
		if flags == flagLeaf {
			pos, ksize = binary.LittleEndian.Uint32(e[4:]), binary.LittleEndian.Uint32(e[8:])
		}
		if uint64(pos)+uint64(ksize) > uint64(len(e)) {
			return damaged("page %d of bucket %q: key %d lies outside", id, bucket, i)
		}
		keys[i] = e[pos : pos+ksize : pos+ksize]
		if i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 || low != nil && bytes.Compare(keys[i], low) < 0 ||
			high != nil && bytes.Compare(keys[i], high) >= 0 {
			return damaged("page %d of bucket %q: key %d is out of order", id, bucket, i)
		}
	}
	for i := range n {
		e := b[boltPageHeader+i*boltElement:]
		var err error
		if flags == flagBranch {
			below := high
			if i+1 < n {
				below = keys[i+1]
			}
			err = c.tree(binary.LittleEndian.Uint64(e[8:]), bucket, keys[i], below, depth+1)
		} else {
			err = c.leaf(e, bucket, keys[i], depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) leaf(e []byte, bucket string, key []byte, depth int) error {
	flags, pos := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
	from := uint64(pos) + uint64(len(key))
	to := from + uint64(binary.LittleEndian.Uint32(e[12:]))
	if to > uint64(len(e)) {
		return damaged("value of %q in bucket %q lies outside its page", key, bucket)
	}
	value := e[from:to:to]
	if flags&leafIsBucket == 0 {
		if bucket == "" {
			return damaged("record %q stands outside any bucket", key)
		}
		if err := c.record(bucket, key, value); err != nil {
			return fmt.Errorf("bucket %s: %w", bucket, err)
		}
		return nil
	}
	if bucket != "" || len(value) < boltBucket {
		return damaged("bucket %q in %q", key, bucket)
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return c.tree(root, string(key), nil, nil, depth+1)
	}
	return c.elements(value[boltBucket:], string(key), nil, nil, depth+1)
}

// freelist checks that no page is free and in use: it would be overwritten.
func (c *checker) freelist(id uint64) error {
	b, err := c.page(id)
	if err != nil {
		return err
	}
	if flags := binary.LittleEndian.Uint16(b[8:]); flags != flagFreelist {
		return damaged("the list of free pages has the flags %#x", flags)
	}
	n := uint64(binary.LittleEndian.Uint16(b[10:]))
	ids := b[boltPageHeader:]
	if n == 0xFFFF {
		n, ids = binary.LittleEndian.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		return damaged("the list of free pages claims %d", n)
	}
	for i := range n {
		p := binary.LittleEndian.Uint64(ids[8*i:])
		if p >= c.high || c.seen[p] {
			return damaged("page %d is free and in use", p)
		}
		c.seen[p] = true
	}
	return nil
}
