package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Folder keeps backups as files of a folder, which is made when absent.
type Folder struct{ Dir string }

// String implements Target.
func (f *Folder) String() string { return f.Dir }

// Put implements Target.
func (f *Folder) Put(ctx context.Context, name string, _ int64, write func(io.Writer) error) (size int64, err error) {
	if err := CheckName(name); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return 0, fmt.Errorf("make folder for backups: %w", err)
	}
	path := filepath.Join(f.Dir, name)
	if _, err := os.Lstat(path); err == nil {
		return 0, fmt.Errorf("%s: %w", path, ErrExists)
	}
	tmp, err := os.CreateTemp(f.Dir, "."+name+".partial-*") // mode 0600
	if err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	c := &counter{w: tmp}
	if err := write(c); err != nil {
		return 0, err
	}
	if err := errors.Join(ctx.Err(), tmp.Sync(), tmp.Close()); err != nil {
		return 0, fmt.Errorf("write backup %s: %w", path, err)
	}
	if err := os.Link(tmp.Name(), path); err != nil { // unlike a rename it replaces nothing
		if errors.Is(err, fs.ErrExist) {
			err = ErrExists
		}
		return 0, fmt.Errorf("write backup %s: %w", path, err)
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return c.n, fmt.Errorf("write backup %s: %w", path, err)
	}
	return c.n, syncFolder(f.Dir)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}

// Open implements Target.
func (f *Folder) Open(_ context.Context, name string) (io.ReadCloser, int64, error) {
	if err := CheckName(name); err != nil {
		return nil, 0, err
	}
	file, err := os.Open(filepath.Join(f.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s in %s: %w", name, f.Dir, ErrAbsent)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open backup: %w", err)
	}
	st, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open backup: %w", err), file.Close())
	}
	return file, st.Size(), nil
}

// OpenRange implements Target.
func (f *Folder) OpenRange(ctx context.Context, name string, offset, n int64) (io.ReadCloser, error) {
	r, size, err := f.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	if n < 0 {
		n = max(0, size-offset)
	}
	file := r.(io.ReaderAt) // an *os.File
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(file, offset, n), r}, nil
}

// List implements Target.
func (f *Folder) List(ctx context.Context, prefix string, fn func(Item) error) error {
	entries, err := os.ReadDir(f.Dir) // in order of names
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list backups: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || CheckName(e.Name()) != nil || !e.Type().IsRegular() {
			continue
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return fmt.Errorf("list backups: %w", err)
		}
		if err := errors.Join(ctx.Err(), fn(Item{e.Name(), st.Size()})); err != nil {
			return err
		}
	}
	return nil
}

// Below implements Target.
func (f *Folder) Below(name string) Target { return &Folder{Dir: filepath.Join(f.Dir, name)} }

// Places implements Target. Links are not followed.
func (f *Folder) Places(ctx context.Context, fn func(name string) error) error {
	entries, err := os.ReadDir(f.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list folders: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := errors.Join(ctx.Err(), fn(e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements Target.
func (f *Folder) Remove(_ context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(f.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s in %s: %w", name, f.Dir, ErrAbsent)
	}
	if err != nil {
		return fmt.Errorf("remove backup: %w", err)
	}
	return syncFolder(f.Dir)
}

// Check implements Target.
func (f *Folder) Check(ctx context.Context) error { return check(ctx, f) }

func check(ctx context.Context, t Target) error {
	if err := t.Remove(ctx, probeName); err != nil && !errors.Is(err, ErrAbsent) {
		return err
	}
	_, err := t.Put(ctx, probeName, 0, func(w io.Writer) error {
		_, err := io.WriteString(w, "written to find out whether backups can be stored here\n")
		return err
	})
	if err != nil {
		return err
	}
	return t.Remove(ctx, probeName)
}

// CleanPartial removes what a Put that was interrupted before the given time left in the folder.
func (f *Folder) CleanPartial(before time.Time) error {
	left, err := filepath.Glob(filepath.Join(f.Dir, ".*.partial-*"))
	if err != nil {
		return err
	}
	below, err := filepath.Glob(filepath.Join(f.Dir, "repo-*", ".*.partial-*")) // of repositories
	if err != nil {
		return err
	}
	left = append(left, below...)
	var errs []error
	for _, path := range left {
		if st, err := os.Lstat(path); err == nil && st.ModTime().Before(before) {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
