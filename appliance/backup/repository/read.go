package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/raftstate/snapshot"
)

// Source is a save for reading. The identities that opened the repository open it.
func (r *Repository) Source(name string) backup.Source { return &source{r, name} }

type source struct {
	r    *Repository
	name string
}

// Read implements backup.Source. All pieces of the save are read.
func (s *source) Read(ctx context.Context, _ []age.Identity, image func(h container.Header, r io.Reader) error) (_ *backup.Backup, err error) {
	sv, err := s.r.load(ctx, s.name)
	if err != nil {
		return nil, err
	}
	packs, err := s.r.newPackReader(ctx)
	if err != nil {
		return nil, err
	}
	defer packs.close()
	sv.locate()
	var members []snapshot.Member
	for i := range sv.body.Files {
		members = append(members, snapshot.Member{Name: sv.body.Files[i].Name, Size: sv.body.Files[i].Size})
	}
	img, err := snapshot.Assemble(sv.body.Image, members, func(i int) (io.ReadCloser, error) {
		return &fileReader{packs: packs, save: sv, file: &sv.body.Files[i], sum: sha256.New()}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backup.ErrContent, err)
	}
	if img.Size() != sv.header.ImageBytes {
		return nil, fmt.Errorf("%w: its files make an image of %d bytes, its header says %d", backup.ErrContent, img.Size(), sv.header.ImageBytes)
	}
	stream := img.Open()
	err = backup.HandOver(sv.header, stream, image)
	if err = errors.Join(err, stream.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	b := backup.Assembled(sv.header, sv.manifest, sv.body.Keys, sv.size)
	if s.r.Encrypted() { // who may read it has its private keys too, but the cluster that only tries a restore
		if err := b.OpenKeys(s.r.identities); err != nil && !errors.Is(err, backup.ErrKey) {
			return nil, err
		}
	}
	return b, nil
}

// locate notes where each piece is.
func (s *save) locate() {
	for i := range s.body.Packs {
		for j := range s.body.Packs[i].Pieces {
			s.places = append(s.places, location{&s.body.Packs[i], j})
		}
	}
}

// fileReader reads a file piece by piece.
type fileReader struct {
	packs *packReader
	save  *save
	file  *saveFile
	next  int
	rest  []byte
	sum   hash.Hash
}

// Read implements io.Reader.
func (f *fileReader) Read(b []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.next == len(f.file.Pieces) {
			if hex.EncodeToString(f.sum.Sum(nil)) != f.file.SHA256 {
				return 0, fmt.Errorf("%w: file %s is not what was saved", backup.ErrContent, f.file.Name)
			}
			return 0, io.EOF
		}
		at := f.save.places[f.file.Pieces[f.next]]
		var err error
		if f.rest, err = f.packs.read(at.pack.Name, &at.pack.Pieces[at.place]); err != nil {
			return 0, fmt.Errorf("file %s: %w", f.file.Name, err)
		}
		f.next++
		f.sum.Write(f.rest)
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (f *fileReader) Close() error { return nil }

// Inspect returns what can be known of a save without a key.
func (r *Repository) Inspect(ctx context.Context, name string) (h container.Header, packs int, err error) {
	m, err := r.openManifest(ctx, name)
	if err != nil {
		return h, 0, err
	}
	return m.c.Header, len(m.list), m.in.Close()
}

// ReadBack reads what a save has stored, which needs no key, and makes sure that it is whole and that what it shares with
// earlier ones is there.
func (r *Repository) ReadBack(ctx context.Context, name string, st *Stats) (container.Header, error) {
	m, err := r.openManifest(ctx, name)
	if err != nil {
		return container.Header{}, err
	}
	_, err = io.Copy(io.Discard, m.c)
	if err = errors.Join(err, m.in.Close()); err != nil {
		return m.c.Header, fmt.Errorf("%s: %w", name, err)
	}
	for _, p := range st.stored {
		if _, err := r.checkPack(ctx, p); err != nil {
			return m.c.Header, err
		}
	}
	there := make(map[string]bool)
	if err := r.store.List(ctx, prefixPack, func(i target.Item) error { there[i.Name] = true; return nil }); err != nil {
		return m.c.Header, err
	}
	for _, p := range m.list {
		if !there[p] {
			return m.c.Header, fmt.Errorf("%w: %s in %s", ErrMissing, p, r.store)
		}
	}
	return m.c.Header, nil
}

// CheckStored reads a save and all its packs to their end and checks what can be checked without a key: that they are,
// byte for byte, what was stored. It returns how many bytes that are. progress, when set, is told of bytes read.
func (r *Repository) CheckStored(ctx context.Context, name string, progress func(n int64)) (h container.Header, size int64, err error) {
	m, err := r.openManifest(ctx, name)
	if err != nil {
		return h, 0, err
	}
	_, err = io.Copy(io.Discard, m.c)
	size = m.c.Consumed()
	if err = errors.Join(err, m.in.Close()); err != nil {
		return h, size, fmt.Errorf("%s: %w", name, err)
	}
	for _, p := range m.list {
		n, err := r.checkPack(ctx, p)
		if size += n; err != nil {
			return h, size, err
		}
		if progress != nil {
			progress(n)
		}
	}
	return m.c.Header, size, nil
}
