package meta

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
)

// A file that goes out of use is not waited for as long as the rate of a search lets it be read.
func TestReadingLetsGoOfAFileThatIsReplaced(t *testing.T) {
	dir := t.TempDir()
	paths := [2]string{filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db")}
	for _, p := range paths {
		made, err := Open(p, slog.New(slog.DiscardHandler))
		if err == nil {
			err = made.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(paths[0], slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, replace := range []func() error{func() error { return s.Reload(paths[1]) }, s.Close} {
		r, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		replaced := make(chan error, 1)
		pages := 0
		err = r.Check(func(int) error {
			if pages++; pages == 1 {
				go func() { replaced <- replace() }()
				<-r.leaving
			}
			return nil
		})
		if !errors.Is(err, ErrReplaced) || errors.Is(err, ErrDamaged) || pages != 1 {
			t.Errorf("%v after %d pages", err, pages)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := <-replaced; err != nil {
			t.Error(err)
		}
	}
}
