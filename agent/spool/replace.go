package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
)

// Damage tells of a spool that was set aside.
type Damage struct {
	Cause     error
	SetAside  string // the folder it is kept in
	Positions int    // source positions that could be taken over
}

// maxDamaged is how many damaged spools are kept.
const maxDamaged = 2

// OpenOrReplace opens the spool in dir. A damaged one is renamed to dir.damaged-<time>, reported, and a new one
// with a new epoch takes its place, so that an agent always starts. Positions of the sources are taken over as
// far as they can be read, so that files are not read twice; the batches that were waiting stay in the folder.
func OpenOrReplace(dir string, opt Options, now time.Time) (*Spool, *Damage, error) {
	s, err := Open(dir, opt)
	if err == nil || !errors.Is(err, ErrDamaged) {
		return s, nil, err
	}
	d := &Damage{Cause: err, SetAside: fmt.Sprintf("%s.damaged-%s", dir, now.UTC().Format("20060102T150405.000Z"))}
	state := salvageState(filepath.Join(dir, wire.LaneLogs.String()))
	if err := os.Rename(dir, d.SetAside); err != nil {
		return nil, nil, fmt.Errorf("set damaged spool aside: %w (%w)", err, d.Cause)
	}
	removeOldDamaged(dir)
	s, err = Open(dir, opt)
	if err != nil {
		return nil, nil, fmt.Errorf("begin a new spool beside the damaged one: %w", err)
	}
	changes := make([]StateChange, 0, len(state))
	for k, v := range state {
		if c := (StateChange{k, v}); c.size() <= maxChange {
			changes = append(changes, c)
		}
	}
	d.Positions = len(changes)
	if len(changes) > 0 {
		if err := s.AppendState(wire.LaneLogs, changes); err != nil {
			s.Close()
			return nil, nil, fmt.Errorf("take over source positions: %w", err)
		}
	}
	return s, d, nil
}

// salvageState reads what it can of the newest state in a damaged lane.
func salvageState(dir string) map[string][]byte {
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		return nil
	}
	slices.Sort(names)
	l := &lane{state: map[string][]byte{}}
	for _, name := range names {
		b := readAround(name)
		for len(b) > 0 {
			p, n, err := nextRecord(b)
			if err != nil {
				i := strings.Index(string(b[1:]), recordMagic)
				if i < 0 {
					break
				}
				b = b[1+i:]
				continue
			}
			l.salvage(p)
			b = b[n:]
		}
	}
	return l.state
}

// salvage takes over what the record says of the sources. A checkpoint does not end what earlier segments said: part
// of its head may be lost, and an older position of a file is worth more than none.
func (l *lane) salvage(p []byte) {
	var changes []StateChange
	var err error
	switch {
	case len(p) == 0:
	case p[0] == typeCheckpoint:
		_, _, changes, err = parseCheckpoint(p)
	case p[0] == typeState:
		changes, err = parseState(p)
	case p[0] == typeBatch:
		var rec batchRecord
		rec, err = parseBatch(p)
		changes = rec.changes
	}
	if err == nil {
		l.applyChanges(changes)
	}
}

const (
	salvageMax   = 256 << 20 // of one file: a length that makes no sense is not believed
	salvageChunk = 256 << 10
	sector       = 4096
)

// readAround returns what can be read of a file, with zeros in place of the rest.
func readAround(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil
	}
	return readable(f, min(fi.Size(), salvageMax))
}

func readable(f io.ReaderAt, size int64) []byte {
	b := make([]byte, size)
	for off := int64(0); off < size; off += salvageChunk {
		chunk := b[off:min(off+salvageChunk, size)]
		if _, err := f.ReadAt(chunk, off); err == nil {
			continue
		}
		for k := 0; k < len(chunk); k += sector {
			part := chunk[k:min(k+sector, len(chunk))]
			if _, err := f.ReadAt(part, off+int64(k)); err != nil {
				clear(part)
			}
		}
	}
	return b
}

func removeOldDamaged(dir string) {
	old, err := filepath.Glob(dir + ".damaged-*")
	if err != nil {
		return
	}
	slices.Sort(old)
	for len(old) > maxDamaged {
		os.RemoveAll(old[0])
		old = old[1:]
	}
}

// DamagedBeside lists the folders of spools that were set aside, oldest first.
func DamagedBeside(dir string) []string {
	old, err := filepath.Glob(dir + ".damaged-*")
	if err != nil {
		return nil
	}
	slices.Sort(old)
	return old
}
