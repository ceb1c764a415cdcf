package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/raftstate/snapshot"
)

// The content of a manifest's container: length uint32 of the list of packs, that list as zstd of JSON, readable by
// everybody so that packs nobody needs are found without a key; then the rest, encrypted by age when the repository is,
// zstd of the JSON of saveBody.

// packList is the part that everybody can read.
type packList struct {
	Packs []string `json:"packs"`
}

// saveBody is what makes a save.
type saveBody struct {
	Version  int             `json:"version"`
	List     string          `json:"packs_sha256"` // of the list of packs as it stands before
	Manifest json.RawMessage `json:"manifest"`     // backup.Manifest
	Image    snapshot.Header `json:"image"`
	Files    []saveFile      `json:"files"` // and folders, in the order of the image
	Packs    []packEntry     `json:"packs"`
	// Keys are the private keys as a JSON list of backup.KeyFile, encrypted to the readers, or to the recovery key.
	Keys []byte `json:"keys_age,omitempty"`
}

// saveFile is a file: its pieces are numbers into the pieces of all packs, in order.
type saveFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"`
	Pieces []int  `json:"pieces,omitempty"`
}

const (
	maxList = 64 << 20  // of the list of packs, decompressed
	maxBody = 512 << 20 // of the rest, decompressed
)

// body puts together which packs a save is made of.
func (w *saver) body(files []savedFile) (*saveBody, error) {
	b := &saveBody{Version: Version}
	where := make(map[pieceKey]location)
	add := func(packs []packEntry) {
		for i := range packs {
			for j := range packs[i].Pieces {
				where[pieceKey(packs[i].Pieces[j].ID)] = location{&packs[i], j}
			}
		}
	}
	add(w.packs)
	used := make(map[string]map[int]bool)
	var order []*packEntry
	for _, f := range files {
		for _, id := range f.pieces {
			at, ok := where[id]
			if !ok {
				if at, ok = w.known.where[id]; !ok {
					return nil, fmt.Errorf("a piece of %s was neither stored nor found", f.name) // broken invariant
				}
				where[id] = at
			}
			if used[at.pack.Name] == nil {
				used[at.pack.Name] = make(map[int]bool)
				order = append(order, at.pack)
			}
			used[at.pack.Name][at.place] = true
		}
	}
	number := make(map[pieceKey]int)
	for _, p := range order {
		e := packEntry{Name: p.Name, Size: p.Size}
		for j := range p.Pieces {
			if used[p.Name][j] {
				number[pieceKey(p.Pieces[j].ID)] = len(number)
				e.Pieces = append(e.Pieces, p.Pieces[j])
			}
		}
		b.Packs = append(b.Packs, e)
	}
	for _, f := range files {
		s := saveFile{Name: f.name, Size: f.size, SHA256: f.sum}
		for _, id := range f.pieces {
			s.Pieces = append(s.Pieces, number[id])
		}
		b.Files = append(b.Files, s)
	}
	return b, nil
}

func (w *saver) sealKeys() ([]byte, error) {
	to := w.r.recipients
	if len(to) == 0 {
		if w.req.Recovery == nil {
			return nil, nil
		}
		to = []age.Recipient{w.req.Recovery}
	}
	b, err := json.Marshal(w.req.Keys)
	if err != nil {
		return nil, fmt.Errorf("encode keys: %w", err)
	}
	return sealed(b, to)
}

func compressed(b []byte) ([]byte, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	defer z.Close()
	return z.EncodeAll(b, nil), nil
}

// decompressed reads all of r, which may become so many bytes.
func decompressed(r io.Reader, most int64) ([]byte, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(32<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backup.ErrContent, err)
	}
	defer z.Close()
	b, err := io.ReadAll(io.LimitReader(z, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%w: it is longer than %d bytes", backup.ErrContent, most)
	}
	return b, err
}

func (r *Repository) writeManifest(w io.Writer, h container.Header, m *backup.Manifest, body *saveBody) error {
	var list packList
	for i := range body.Packs {
		list.Packs = append(list.Packs, body.Packs[i].Name)
	}
	packs, err := json.Marshal(&list)
	if err == nil {
		packs, err = compressed(packs)
	}
	if err != nil {
		return fmt.Errorf("encode list of packs: %w", err)
	}
	out, err := container.NewWriter(w, h)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(packs)
	m.Header, body.List = out.HeaderSum(), hex.EncodeToString(sum[:])
	if body.Manifest, err = json.Marshal(m); err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	rest, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	to, err := r.manifestRecipients()
	if err != nil {
		return err
	}
	return errors.Join(writeSections(out, packs, rest, to), out.Close())
}

func writeSections(w io.Writer, open, closed []byte, to []age.Recipient) error {
	closed, err := compressed(closed)
	if err == nil && len(to) > 0 {
		closed, err = sealed(closed, to)
	}
	if err != nil {
		return err
	}
	for _, b := range [][]byte{binary.LittleEndian.AppendUint32(nil, uint32(len(open))), open, closed} {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// manifestReader reads the object of a save.
type manifestReader struct {
	in   io.Closer
	c    *container.Reader
	list []string
	sum  string // of the list of packs
}

// openManifest opens a save and reads which packs it is made of.
func (r *Repository) openManifest(ctx context.Context, name string) (_ *manifestReader, err error) {
	in, _, err := r.store.Open(ctx, name)
	if errors.Is(err, target.ErrAbsent) {
		return nil, fmt.Errorf("%s in %s: %w", name, r.store, ErrNoSave)
	}
	if err != nil {
		return nil, err
	}
	m := &manifestReader{in: in}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", name, err), in.Close())
		}
	}()
	if m.c, err = container.NewReader(in); err != nil {
		return nil, err
	}
	if m.c.Header.Content != container.ContentSaveV1 {
		return nil, fmt.Errorf("%w: its content is %.40q", container.ErrVersion, m.c.Header.Content)
	}
	if m.c.Header.Encryption != r.about.Encryption {
		return nil, fmt.Errorf("%w: it is encrypted in another way than its repository", backup.ErrContent)
	}
	m.list, m.sum, err = readList(m.c)
	return m, err
}

func readList(r io.Reader) (packs []string, sum string, err error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, "", ended(err)
	}
	size := binary.LittleEndian.Uint32(n[:])
	if size > maxList {
		return nil, "", fmt.Errorf("%w: its list of packs claims %d bytes", backup.ErrContent, size)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err == nil && len(b) != int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, "", ended(err)
	}
	h := sha256.Sum256(b)
	plain, err := decompressed(bytes.NewReader(b), maxList)
	if err != nil {
		return nil, "", fmt.Errorf("%w: its list of packs: %w", backup.ErrContent, err)
	}
	var list packList
	if err := json.Unmarshal(plain, &list); err != nil {
		return nil, "", fmt.Errorf("%w: its list of packs: %w", backup.ErrContent, err)
	}
	for _, p := range list.Packs {
		if !isPack(p) || target.CheckName(p) != nil {
			return nil, "", fmt.Errorf("%w: its list of packs names %.100q", backup.ErrContent, p)
		}
	}
	return list.Packs, hex.EncodeToString(h[:]), nil
}

func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", backup.ErrContent)
	}
	return err
}

// save is a manifest that was read and checked.
type save struct {
	header   container.Header
	manifest *backup.Manifest
	body     *saveBody
	places   []location // of the pieces by their number; after locate
	size     int64
}

// load reads the whole manifest of a save.
func (r *Repository) load(ctx context.Context, name string) (_ *save, err error) {
	m, err := r.openManifest(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.in.Close()) }()
	s, err := r.readSave(m)
	if e := m.c.Err(); e != nil {
		err = e // the layers below, whatever those above make of it
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func (r *Repository) readSave(m *manifestReader) (*save, error) {
	plain := io.Reader(m.c)
	if r.Encrypted() {
		if len(r.manifests) == 0 {
			return nil, fmt.Errorf("%w: none was given", backup.ErrKey)
		}
		var err error
		if plain, err = age.Decrypt(m.c, r.manifests...); err != nil {
			return nil, whyClosed(err)
		}
	}
	b, err := decompressed(plain, maxBody)
	if err != nil {
		return nil, fmt.Errorf("%w: its manifest: %w", backup.ErrContent, err)
	}
	if n, err := io.Copy(io.Discard, m.c); err != nil || n > 0 {
		return nil, errors.Join(fmt.Errorf("%w: there is something behind its manifest", backup.ErrContent), err)
	}
	s := &save{header: m.c.Header, body: new(saveBody), manifest: new(backup.Manifest), size: m.c.Consumed()}
	if err := json.Unmarshal(b, s.body); err != nil {
		return nil, fmt.Errorf("%w: its manifest: %w", backup.ErrContent, err)
	}
	if s.body.Version != Version {
		return nil, fmt.Errorf("%w: its manifest is of version %d", backup.ErrNewer, s.body.Version)
	}
	if err := json.Unmarshal(s.body.Manifest, s.manifest); err != nil {
		return nil, fmt.Errorf("%w: its manifest: %w", backup.ErrContent, err)
	}
	if s.manifest.Version != 1 {
		return nil, fmt.Errorf("%w: its manifest is of version %d", backup.ErrNewer, s.manifest.Version)
	}
	if s.manifest.Header != m.c.HeaderSum() || s.body.List != m.sum {
		return nil, fmt.Errorf("%w: the header or the list of packs was exchanged", backup.ErrContent)
	}
	return s, s.check(m.list)
}

// check holds the parts of a manifest against each other.
func (s *save) check(list []string) error {
	h, m := &s.header, s.manifest
	if m.Index != h.Index || m.Term != h.Term || m.Cluster != h.Cluster || m.Digest != h.Digest || s.body.Image.Index != h.Index {
		return fmt.Errorf("%w: header and manifest differ", backup.ErrContent)
	}
	var names []string
	var raw []int64
	for i := range s.body.Packs {
		names = append(names, s.body.Packs[i].Name)
		for j := range s.body.Packs[i].Pieces {
			p := &s.body.Packs[i].Pieces[j]
			if len(p.ID) != sha256.Size || p.Raw < 0 || p.Raw > maxPiece {
				return fmt.Errorf("%w: a piece of %s is described wrongly", backup.ErrContent, s.body.Packs[i].Name)
			}
			raw = append(raw, p.Raw)
		}
	}
	if !slices.Equal(names, list) {
		return fmt.Errorf("%w: its packs are not those that its list names", backup.ErrContent)
	}
	place := 0 // in the manifest's files, which are those of the image without folders
	for i := range s.body.Files {
		f := &s.body.Files[i]
		size := int64(0)
		for _, n := range f.Pieces {
			if n < 0 || n >= len(raw) {
				return fmt.Errorf("%w: file %.200q has a piece that is nowhere", backup.ErrContent, f.Name)
			}
			size += raw[n]
		}
		if size != f.Size {
			return fmt.Errorf("%w: the pieces of file %.200q have %d bytes, it has %d", backup.ErrContent, f.Name, size, f.Size)
		}
		if f.SHA256 == "" {
			continue
		}
		if place >= len(m.Files) || m.Files[place] != (backup.File{Name: f.Name, Size: f.Size, SHA256: f.SHA256}) {
			return fmt.Errorf("%w: file %.200q is not that of the manifest", backup.ErrContent, f.Name)
		}
		place++
	}
	if place != len(m.Files) {
		return fmt.Errorf("%w: it has %d files, the manifest names %d", backup.ErrContent, place, len(m.Files))
	}
	return nil
}
