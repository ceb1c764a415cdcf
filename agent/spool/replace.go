package spool

import (
	"errors"
	"fmt"
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
		changes = append(changes, StateChange{k, v})
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
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
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

func (l *lane) salvage(p []byte) {
	switch {
	case len(p) == 0:
	case p[0] == typeCheckpoint:
		if _, changes, err := parseCheckpoint(p); err == nil {
			l.state = map[string][]byte{}
			l.applyChanges(changes)
		}
	case p[0] == typeState:
		r := reader{b: p[1:]}
		l.applyChanges(r.changes())
	case p[0] == typeBatch:
		if rec, err := parseBatch(p); err == nil {
			l.applyChanges(rec.changes)
		}
	}
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
