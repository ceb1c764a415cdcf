package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// asideStart begins the names of directories that were set aside because what they hold is damaged. One is kept of
// each kind.
const asideStart = "quarantine-"

// asideFile says in such a directory why it is there.
const asideFile = "REASON.json"

// Aside is something that was set aside.
type Aside struct {
	Dir    string    `json:"dir"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Bytes  int64     `json:"bytes"`
}

// SetAside renames the directory of a store in a generation that is not in use, in the place of what was set aside of
// its kind before. It returns the new name; "" when there was nothing.
func (l Layout) SetAside(kind, generation, reason string, at time.Time) (string, error) {
	return setAside(l.Dir(kind, generation), filepath.Join(l.root, kind), reason, at)
}

// SetAside renames the directory dir, beside itself, in the place of what was set aside there before.
func SetAside(dir, reason string, at time.Time) (string, error) {
	return setAside(dir, dir+"-aside", reason, at)
}

func setAside(dir, parent, reason string, at time.Time) (string, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", fmt.Errorf("set %s aside: %w", dir, err)
	}
	if err := dropAside(parent); err != nil {
		return "", err
	}
	body, err := json.Marshal(Aside{Reason: reason, At: at})
	if err != nil {
		return "", fmt.Errorf("set %s aside: %w", dir, err)
	}
	if err := os.WriteFile(filepath.Join(dir, asideFile), body, 0o600); err != nil {
		return "", fmt.Errorf("set %s aside: %w", dir, err)
	}
	to := filepath.Join(parent, asideStart+filepath.Base(dir))
	if err := os.Rename(dir, to); err != nil {
		return "", fmt.Errorf("set %s aside: %w", dir, err)
	}
	return to, errors.Join(syncDir(parent), syncDir(filepath.Dir(dir)))
}

// AsideDir is what SetAside renames to.
func (l Layout) AsideDir(kind, generation string) string {
	return filepath.Join(l.root, kind, asideStart+generation)
}

func dropAside(parent string) error {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list what was set aside: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), asideStart) {
			errs = append(errs, os.RemoveAll(filepath.Join(parent, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// asideParents are where things are set aside below the data directory.
func (l Layout) asideParents() []string {
	parents := []string{filepath.Join(l.root, "raft-aside")}
	for _, kind := range kinds {
		parents = append(parents, filepath.Join(l.root, kind))
	}
	return parents
}

// DropAside removes everything that was set aside.
func (l Layout) DropAside() error {
	var errs []error
	for _, p := range l.asideParents() {
		errs = append(errs, dropAside(p))
	}
	return errors.Join(errs...)
}

// SetAsides lists what was set aside.
func (l Layout) SetAsides() ([]Aside, error) {
	var list []Aside
	var errs []error
	for _, p := range l.asideParents() {
		entries, err := os.ReadDir(p)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), asideStart) {
				continue
			}
			a := Aside{}
			dir := filepath.Join(p, e.Name())
			if body, err := os.ReadFile(filepath.Join(dir, asideFile)); err == nil {
				_ = json.Unmarshal(body, &a) // what it cannot say is left empty
			}
			a.Dir = dir
			_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					if info, err := d.Info(); err == nil {
						a.Bytes += info.Size()
					}
				}
				return nil // what vanishes meanwhile counts nothing
			})
			list = append(list, a)
		}
	}
	return list, errors.Join(errs...)
}

// Whole lists the generations that have a file of metadata.
func (l Layout) Whole() ([]string, error) {
	names, err := l.list(KindMeta)
	if err != nil {
		return nil, err
	}
	var whole []string
	for _, name := range names {
		if _, ok := number(name); !ok {
			continue
		}
		if _, err := os.Stat(l.MetaFile(name)); err == nil {
			whole = append(whole, name)
		}
	}
	return whole, nil
}
