package simulation

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

// replay applies the log that was collected anew up to the entry index, in groups and with marks of its own, and notes
// the state that comes out: first from the beginning, then again from one of the marks on the way.
func (d *director) replay(index uint64) {
	d.clients.read(d.members[0].id, map[string]uint64{d.members[0].id: d.clients.collected() + 1})
	if d.clients.collected() < index {
		return // a part of the log was gone before anybody read it
	}
	dir := filepath.Join(d.root, "replay")
	mark, err := d.applyAnew(dir, "", index)
	if err == nil && mark != "" {
		_, err = d.applyAnew(dir, mark, index)
	}
	if err != nil {
		d.rec.add(Record{Kind: kindRefused, Text: "replay: " + err.Error()})
	}
}

// collected returns up to which entry the archive is complete.
func (cl *clients) collected() uint64 {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	i := uint64(0)
	for {
		if _, ok := cl.archive[i+1]; !ok {
			return i
		}
		i++
	}
}

// applyAnew applies the collected entries behind the mark of the file from ("" none) and returns a file with a mark that
// it made on the way.
func (d *director) applyAnew(dir, from string, index uint64) (mark string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path := from
	if path == "" {
		path = filepath.Join(dir, "meta.db")
	}
	s, err := meta.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	defer func() { _ = s.Close() }()
	coder, err := wire.NewCoder()
	if err != nil {
		return "", err
	}
	at, _ := s.Mark()
	m, r := machine.New(s, coder, machine.DefaultLimits()), d.rand
	if at.Index >= index { // the mark is of the last entry: nothing lies behind it
		return "", nil
	}
	stop := at.Index + 1 + r.Uint64N(index-at.Index)
	how := fmt.Sprintf("from entry %d", at.Index)
	var group machine.Group
	open := false
	var term uint64
	finish := func() {
		if open {
			m.Finish(&group)
		}
		group.Reset()
		open = false
	}
	for i := at.Index + 1; i <= index; i++ {
		e := d.clients.archive[i]
		term = e.Term
		if len(e.Commands) > 0 {
			if _, err := m.Apply(i, e.Term, command.Entry{Stamp: e.Stamp, Commands: e.Commands}, &group); err != nil {
				return "", err
			}
			open = true
		}
		if r.IntN(3) == 0 {
			finish()
		}
		if i == stop && from == "" {
			finish()
			if err := s.Freeze(i, term).Commit(meta.Mark{Index: i, Term: term}); err != nil {
				return "", err
			}
			mark = filepath.Join(dir, "mark.db")
			if err := s.CopyTo(mark); err != nil {
				return "", err
			}
		}
	}
	finish()
	if err := s.Freeze(index, term).Commit(meta.Mark{Index: index, Term: term}); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "out.db")
	_ = os.Remove(out)
	if err := s.CopyTo(out); err != nil {
		return "", err
	}
	about, err := meta.Summarize(out)
	if err != nil {
		return "", err
	}
	d.rec.add(Record{Kind: kindReplay, Index: index, Sum: about.Sum, Text: how})
	return mark, nil
}
