package verdicts

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, path string, mark uint64) *Store {
	t.Helper()
	s, err := Open(path, mark, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !strings.Contains(err.Error(), "not open") {
			t.Error(err)
		}
	})
	return s
}

func (s *Store) expect(t *testing.T, index uint64, want string, known bool) {
	t.Helper()
	body, ok := s.Get(index)
	if string(body) != want || ok != known || s.Knows(index) != known {
		t.Errorf("entry %d: %q %v, want %q %v", index, body, ok, want, known)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsKnownOverRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue", "verdicts.db")
	s := open(t, path, 0)
	s.Note(3, []byte("three"))
	s.Note(9, []byte("nine"))
	s.expect(t, 3, "three", true)
	s.expect(t, 4, "", true)
	must(t, s.Commit(8, 1))
	s.expect(t, 9, "nine", true)
	must(t, s.Close())

	s = open(t, path, 8) // the mark came through: 9 is applied, and noted, again
	s.expect(t, 3, "three", true)
	s.expect(t, 9, "", true)
	s.Note(9, []byte("another nine"))
	must(t, s.Commit(12, 4)) // the log begins at 4
	s.expect(t, 3, "", true)
	must(t, s.Close())

	s = open(t, path, 20) // entries 13 to 20 were applied while nobody noted
	s.expect(t, 9, "", false)
	s.expect(t, 20, "", false)
	s.expect(t, 21, "", true)
	must(t, s.Commit(25, 4))
	s.Jump(100) // an image
	s.expect(t, 100, "", false)
	s.Note(101, []byte("x"))
	must(t, s.Commit(110, 101))
	must(t, s.Close())

	s = open(t, path, 110)
	s.expect(t, 100, "", false)
	s.expect(t, 101, "x", true)
	must(t, s.Close())

	// The state was lost: it comes from another node, of an entry that was noted once, but not for this state.
	s = open(t, path, 0)
	must(t, s.Close())
	s = open(t, path, 105)
	s.expect(t, 101, "", false)
	s.expect(t, 105, "", false)
	s.expect(t, 106, "", true)
}

func TestDamageIsSetAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "verdicts.db")
	s := open(t, path, 0)
	s.Note(1, []byte(strings.Repeat("one", 100)))
	must(t, s.Commit(5, 1))
	must(t, s.Close())
	whole, err := os.ReadFile(path)
	must(t, err)
	at := strings.Index(string(whole), "oneone")
	for name, body := range map[string][]byte{"a flipped bit": append([]byte(nil), whole...), "cut": whole[:len(whole)/2], "empty": {}} {
		if name == "a flipped bit" {
			body[at+50] ^= 4
		}
		must(t, os.WriteFile(path, body, 0o600))
		s := open(t, path, 5)
		s.expect(t, 1, "", false)
		s.expect(t, 6, "", true)
		s.Note(7, []byte("seven"))
		must(t, s.Commit(8, 1))
		s.expect(t, 7, "seven", true)
		must(t, s.Close())
		if _, err := os.Stat(path + ".damaged"); err != nil && name != "empty" {
			t.Errorf("%s: %v", name, err)
		}
		if s.SetAside() == nil && name != "empty" {
			t.Errorf("%s: it is not told", name)
		}
		_ = os.Remove(path + ".damaged")
	}
}

// A file that is damaged while it is in use is set aside, and verdicts go on behind the mark; the full disk stays an error.
func TestDamageWhileInUseIsSetAside(t *testing.T) {
	for name, damage := range map[string]func(f *os.File, size int64) error{
		"pages of zeros": func(f *os.File, size int64) error {
			_, err := f.WriteAt(make([]byte, size-2*4096), 2*4096)
			return err
		},
		"cut": func(f *os.File, _ int64) error { return f.Truncate(2 * 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "verdicts.db")
			s := open(t, path, 0)
			for i := uint64(1); i <= 60; i++ {
				s.Note(i, []byte(strings.Repeat("one", 400)))
			}
			must(t, s.Commit(60, 1))
			s.Note(61, []byte("x"))
			s.Note(75, []byte("behind the mark"))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			st, err := f.Stat()
			must(t, err)
			must(t, damage(f, st.Size()))
			must(t, f.Close())
			must(t, s.Commit(70, 1))
			s.expect(t, 30, "", false)
			s.expect(t, 70, "", false)
			s.expect(t, 71, "", true)
			s.expect(t, 75, "behind the mark", true)
			if _, err := os.Stat(path + ".damaged"); err != nil {
				t.Error(err)
			}
			s.Note(80, []byte("eighty"))
			must(t, s.Commit(85, 1))
			must(t, s.Close())
			s = open(t, path, 85)
			s.expect(t, 70, "", false)
			s.expect(t, 75, "behind the mark", true)
			s.expect(t, 80, "eighty", true)
		})
	}
}
