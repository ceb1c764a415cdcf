package logfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// copyingFiles keeps a copy of the log's directory before and after each sync, with what was written since the sync
// before.
type copyingFiles struct {
	*walfs.FS
	t      *testing.T
	dir    string
	acked  uint64
	copies []logCopy
}

type logCopy struct {
	dir   string
	acked uint64
	file  string // with writes that may be torn; "" when everything was synced
	at    int64
	old   []byte
}

func (c *copyingFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := c.FS.Create(dir, name, size)
	return &copyingFile{WritableFile: f, c: c, name: name}, err
}

func (c *copyingFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := c.FS.OpenWriter(dir, name)
	return &copyingFile{WritableFile: f, c: c, name: name}, err
}

func (c *copyingFiles) keep(l logCopy) {
	l.dir, l.acked = c.t.TempDir(), c.acked
	if err := os.CopyFS(l.dir, os.DirFS(c.dir)); err != nil {
		c.t.Error(err)
	}
	c.copies = append(c.copies, l)
}

type copyingFile struct {
	types.WritableFile
	c    *copyingFiles
	name string
	last logCopy
}

func (f *copyingFile) WriteAt(p []byte, at int64) (int, error) {
	f.last = logCopy{file: f.name, at: at, old: make([]byte, len(p))}
	if _, err := f.ReadAt(f.last.old, at); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return f.WritableFile.WriteAt(p, at)
}

func (f *copyingFile) Sync() error {
	f.c.keep(f.last)
	err := f.WritableFile.Sync()
	f.c.keep(logCopy{})
	return err
}

// tear takes back some of the sectors of the write that was not synced.
func (l logCopy) tear(t *testing.T, r *rand.Rand) {
	t.Helper()
	if l.file == "" {
		return
	}
	f, err := os.OpenFile(filepath.Join(l.dir, l.file), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lo := 0; lo < len(l.old); {
		hi := min(len(l.old), lo+512-int((l.at+int64(lo))%512))
		if r.IntN(2) == 0 {
			if _, err := f.WriteAt(l.old[lo:hi], l.at+int64(lo)); err != nil {
				t.Fatal(err)
			}
		}
		lo = hi
	}
}

// TestPowerLossAtAnyAppend ends the process, or the machine, around every sync of a log of small segments, among them
// those that seal one: whatever was acknowledged is there, and the log takes more.
func TestPowerLossAtAnyAppend(t *testing.T) {
	for _, torn := range []bool{false, true} {
		t.Run(fmt.Sprint("torn ", torn), func(t *testing.T) {
			r := rand.New(rand.NewPCG(4, 4))
			c := &copyingFiles{FS: walfs.New(), t: t, dir: t.TempDir()}
			s, err := Open(c.dir, Options{SegmentBytes: 8 << 10, Files: c})
			if err != nil {
				t.Fatal(err)
			}
			for i := uint64(1); i < 40; {
				var logs []*raft.Log
				for range 1 + r.IntN(3) {
					logs = append(logs, &raft.Log{Index: i, Term: 1, Data: content(i, 200+r.IntN(2000))})
					i++
				}
				if err := s.StoreLogs(logs); err != nil {
					t.Fatal(err)
				}
				c.acked = i - 1
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if n := s.Segments(); n < 4 {
				t.Errorf("there are %d segments: the test tests little", n)
			}
			for i, l := range c.copies {
				if torn {
					l.tear(t, r)
				}
				goesOn(t, fmt.Sprintf("copy %d of %d", i, len(c.copies)), l)
			}
		})
	}
}

func content(i uint64, n int) []byte {
	b := make([]byte, n)
	for k := range b {
		b[k] = byte(i)
	}
	return b
}

// goesOn opens a copy twice and appends each time.
func goesOn(t *testing.T, name string, l logCopy) {
	t.Helper()
	for round := range 3 {
		s, err := Open(l.dir, Options{SegmentBytes: 8 << 10})
		if err != nil {
			t.Fatalf("%s, round %d: %v", name, round, err)
		}
		last, err := s.LastIndex()
		if err != nil || last < l.acked {
			t.Fatalf("%s, round %d: the log ends at entry %d, %d were acknowledged (%v)", name, round, last, l.acked, err)
		}
		if err := s.Verify(t.Context(), 1); err != nil {
			t.Fatalf("%s, round %d: %v", name, round, err)
		}
		for i := uint64(1); i <= last; i++ {
			var e raft.Log
			if err := s.GetLog(i, &e); err != nil || e.Data[0] != byte(i) {
				t.Fatalf("%s, round %d: entry %d is of %d (%v)", name, round, i, e.Data[0], err)
			}
		}
		if err := s.StoreLogs([]*raft.Log{{Index: last + 1, Term: 2, Data: content(last+1, 300)}}); err != nil {
			t.Fatalf("%s, round %d: append: %v", name, round, err)
		}
		l.acked = last + 1
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
