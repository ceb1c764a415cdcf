package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/repository"
	place "github.com/triward/triward/appliance/backup/target"
)

// inRepository says whether a name is that of a repository, a folder or an address in S3 that ends with repo-..., or of
// one save in it, and splits it.
func inRepository(name string) (at, save string, ok bool) {
	name = strings.TrimRight(name, "/")
	base, parent := path.Base(name), strings.TrimSuffix(name, "/"+path.Base(name))
	isRepository := func(name string) bool {
		if isS3(name) {
			return strings.HasPrefix(path.Base(name), repository.FolderPrefix)
		}
		_, err := os.Stat(filepath.Join(name, "repository.json"))
		return err == nil || strings.HasPrefix(filepath.Base(name), repository.FolderPrefix)
	}
	switch {
	case name == "-":
		return "", "", false
	case strings.HasPrefix(base, "save-"):
		if parent == name { // a name without a folder
			parent = "."
		}
		return parent, base, isRepository(parent)
	}
	return name, "", isRepository(name)
}

// placeOf is where a repository lies.
func (f *s3Flags) placeOf(at string) (place.Target, error) {
	if !isS3(at) {
		return &place.Folder{Dir: at}, nil
	}
	cfg, err := f.config(at)
	if err == nil && f.ca == "" {
		err = f.trust(&cfg, os.Getenv("AWS_CA_BUNDLE"))
	}
	if err != nil {
		return nil, err
	}
	return place.NewS3(cfg)
}

// lookAt opens the repository of a name and chooses a save: the one named, or the newest that is not after index and at
// (0: no bound). ok is false when the name is none of a repository.
func (f *s3Flags) lookAt(ctx context.Context, name string, ids []age.Identity, index uint64, at int64) (r *repository.Repository, save string, ok bool, err error) {
	where, save, ok := inRepository(name)
	if !ok {
		return nil, "", false, nil
	}
	store, err := f.placeOf(where)
	if err != nil {
		return nil, "", true, err
	}
	if r, err = repository.Look(ctx, store, ids); err != nil {
		return nil, "", true, err
	}
	if save == "" {
		s, err := r.Choose(ctx, index, at)
		if err != nil {
			return nil, "", true, err
		}
		save = s.Name
	}
	return r, save, true, nil
}

// repositoryAnswer is what `snapshot inspect -o json` prints of a repository.
type repositoryAnswer struct {
	Repository string             `json:"repository"`
	Encrypted  bool               `json:"encrypted"`
	Saves      []savedInAnswer    `json:"saves"`
	Archive    []archivedInAnswer `json:"archive"`
}

type savedInAnswer struct {
	Name   string           `json:"name"`
	Packs  int              `json:"packs"`
	Header container.Header `json:"header"`
}

// archivedInAnswer is a span of entries at each of which a restore can end.
type archivedInAnswer struct {
	repository.Coverage
	Segments int   `json:"segments"`
	Bytes    int64 `json:"bytes"`
}

// inspectRepository shows what a repository, or one save of it, holds, without a key.
func inspectRepository(ctx context.Context, s streams, f *s3Flags, form *outputForm, name string) error {
	where, save, _ := inRepository(name)
	store, err := f.placeOf(where)
	if err != nil {
		return err
	}
	r, err := repository.Look(ctx, store, nil)
	if err != nil {
		return err
	}
	if save != "" {
		h, packs, err := r.Inspect(ctx, save)
		if err != nil {
			return err
		}
		if form.json() {
			return writeJSON(s.out, savedInAnswer{save, packs, h})
		}
		printHeader(s.out, &h)
		fmt.Fprintf(s.out, "made of    %d packs\n", packs)
		return nil
	}
	a, err := describe(ctx, r, where)
	if err != nil {
		return err
	}
	if form.json() {
		return writeJSON(s.out, a)
	}
	return printRepository(s, a)
}

func describe(ctx context.Context, r *repository.Repository, where string) (*repositoryAnswer, error) {
	a := &repositoryAnswer{Repository: where, Encrypted: r.Encrypted(), Saves: []savedInAnswer{}, Archive: []archivedInAnswer{}}
	saves, err := r.Saves(ctx)
	if err != nil {
		return nil, err
	}
	for _, one := range saves {
		h, packs, err := r.Inspect(ctx, one.Name)
		if err != nil {
			return nil, err
		}
		a.Saves = append(a.Saves, savedInAnswer{one.Name, packs, h})
	}
	segments, err := r.Segments(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range repository.Covered(saves, segments) {
		span := archivedInAnswer{Coverage: c}
		for _, g := range segments {
			if g.Last > c.From && g.First <= c.Until {
				span.Segments++
				span.Bytes += g.Size
			}
		}
		a.Archive = append(a.Archive, span)
	}
	return a, nil
}

func printRepository(s streams, a *repositoryAnswer) error {
	how := "not encrypted"
	if a.Encrypted {
		how = "encrypted (age)"
	}
	fmt.Fprintf(s.out, "repository %s, %s\n\n", a.Repository, how)
	tab := newTable(s.out, "save", "as of entry", "log time", "state", "packs", "digest")
	for i := range a.Saves {
		v := &a.Saves[i]
		tab.row(v.Name, fmt.Sprint(v.Header.Index), time.UnixMilli(v.Header.LogTime).Format(time.RFC3339), bytesText(v.Header.ImageBytes), fmt.Sprint(v.Packs), v.Header.Digest)
	}
	if err := tab.flush(); err != nil {
		return err
	}
	for _, c := range a.Archive {
		if c.Until > c.From {
			fmt.Fprintf(s.out, "\nA restore can end at any entry from %d to %d (%d segments of the log, %s).\n", c.From, c.Until, c.Segments, bytesText(c.Bytes))
		}
	}
	return nil
}

// verifyRepository is verifyFile for a save of a repository.
func verifyRepository(ctx context.Context, s streams, a *checkedAnswer, f *s3Flags, ids []age.Identity, quick bool, stage string) error {
	r, save, _, err := f.lookAt(ctx, a.File, ids, 0, 0)
	if err != nil {
		return err
	}
	p := newProgress(s.err, "checking", 0)
	defer p.end()
	a.Save = save
	if _, named, _ := inRepository(a.File); named == "" {
		p.enter("reading all of the repository")
		all, err := r.CheckAll(ctx, p.add)
		if err != nil {
			return orCancelled(ctx, err)
		}
		a.All = &all
		p.enter("checking " + save)
	}
	if r.Encrypted() && len(ids) == 0 {
		a.Header, a.Bytes, err = r.CheckStored(ctx, save, p.add)
		return orCancelled(ctx, err)
	}
	b, deep, err := backup.VerifySource(ctx, r.Source(save), backup.VerifyOptions{
		Identities: ids, Quick: quick, Stage: stage, Phase: p.enter, Throttle: func(n int) error { p.add(int64(n)); return nil },
	})
	if err != nil {
		return orCancelled(ctx, err)
	}
	a.Header, a.Bytes, a.Manifest, a.Deep, a.Opened = b.Header, b.Size, b.Manifest, deep, true
	return nil
}

// pointFlags say where a restore ends.
type pointFlags struct {
	index  uint64
	time   string
	latest bool
	only   string
}

// options adds to the options of a restore where it ends. It returns the bounds by which a save is chosen.
func (p *pointFlags) options(o *appliance.RestoreOptions) (index uint64, at int64, err error) {
	given := 0
	for _, is := range []bool{p.index > 0, p.time != "", p.latest} {
		if is {
			given++
		}
	}
	if given > 1 {
		return 0, 0, errors.New("--to-index, --to-time and --latest: give one of them")
	}
	o.Only = p.only
	if p.time != "" {
		t, err := time.Parse(time.RFC3339Nano, p.time)
		if err != nil {
			return 0, 0, fmt.Errorf("--to-time %q: want a time such as 2026-11-26T21:00:00Z", p.time)
		}
		at = t.UnixMilli()
	}
	o.Until = appliance.Until{Index: p.index, Time: at}
	return p.index, at, nil
}

func (p *pointFlags) wanted() bool { return p.index > 0 || p.time != "" || p.latest }

// source opens what a restore is of.
func (p *pointFlags) source(ctx context.Context, s streams, f *s3Flags, name string, o *appliance.RestoreOptions) (src backup.Source, done func(), pr *progress, err error) {
	index, at, err := p.options(o)
	if err != nil {
		return nil, nil, nil, err
	}
	r, save, ok, err := f.lookAt(ctx, name, o.Identities, index, at)
	if err != nil {
		return nil, nil, nil, err
	}
	if ok {
		if p.wanted() {
			o.Archive = r
		}
		return r.Source(save), func() {}, newProgress(s.err, "restoring", 0), nil
	}
	if p.wanted() {
		return nil, nil, nil, fmt.Errorf("--to-index, --to-time and --latest want a repository, whose name ends with %s..., and %s is none", repository.FolderPrefix, name)
	}
	in, size, err := openBackup(ctx, s, f, name)
	if err != nil {
		return nil, nil, nil, err
	}
	pr = newProgress(s.err, "restoring", size)
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	return backup.Stream(pr.reader(in)), func() { stop(); _ = in.Close() }, pr, nil
}
