package logstore

import (
	"errors"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A file keeps a little of the disk back. What retention drops must be noted in Pebble's manifest before it is freed,
// and a manifest that cannot be written ends the process; so on a disk whose last byte others have taken the file is
// given up first.
const (
	reserveBytes = 4 << 20
	plenty       = 64 << 20 // free bytes from which on it is made
	scarce       = 8 << 20  // free bytes below which it is given up
	noteRoom     = 1 << 20  // more than what is noted of a day
)

func (e *engine) reservePath() string { return filepath.Join(e.dir, "reserve") }

// keepReserve makes the reserve when it is not there and the disk has room. To be without it is no failure.
func (e *engine) keepReserve() {
	if e.reserved || e.freeBytes() < plenty {
		return
	}
	fs := e.store.opt.FS
	if _, err := fs.Stat(e.reservePath()); err == nil {
		e.reserved = true
		return
	}
	f, err := fs.Create(e.reservePath(), vfs.WriteCategoryUnspecified)
	if err != nil {
		return
	}
	err = errors.Join(f.Preallocate(0, reserveBytes), f.Close())
	if e.reserved = err == nil; err != nil {
		e.giveReserve()
	}
}

// giveReserve frees the reserve.
func (e *engine) giveReserve() {
	_ = e.store.opt.FS.Remove(e.reservePath()) // it may be gone already
	e.reserved = false
}

// freeBytes returns how much the disk can still take; much when that cannot be told.
func (e *engine) freeBytes() uint64 {
	u, err := e.store.opt.FS.GetDiskUsage(e.dir)
	if err != nil {
		return 1 << 62
	}
	return u.AvailBytes
}

// noRoom reports whether err says that a disk or a quota is full, which passes.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
