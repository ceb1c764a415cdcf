package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/raftstate/snapshot"
)

// State is a state at one index as files on disk, which do not change while a save goes on.
type State interface {
	Header() snapshot.Header
	Members() []snapshot.Member
	// Size is the length in bytes of the image that the files make.
	Size() int64
}

// Request says how a save is made.
type Request struct {
	About    backup.About
	Keys     []backup.KeyFile
	Recovery age.Recipient // for the private keys, when the repository is not encrypted; nil: they stay away
	Run      string        // names the save, unique in the repository: a-z, 0-9
	// Process names the process that saves, Node its node: what a process of the same node left that is gone is cleared.
	Process string
	Cache   *Cache       // nil: every file is read
	Log     *slog.Logger // nil: discards
	// Progress, when set, is told the bytes of the image that are done.
	Progress func(done, total int64)
}

// Stats says what a save did.
type Stats struct {
	Stored int64 // bytes that it put into the place
	Read   int64 // bytes of files that were read; the others were known to be what they were
	New    int64 // bytes of files that were not there yet
	Packs  int   // that the save is made of, with those of earlier ones
	Total  int64 // bytes of these packs before encryption

	stored []string // packs that it stored
}

const cleanUp = 30 * time.Second // for removing what a save that failed leaves

// Save stores the state and returns its name.
func (r *Repository) Save(ctx context.Context, state State, req Request) (_ *backup.Manifest, name string, _ Stats, err error) {
	if req.Log == nil {
		req.Log = slog.New(slog.DiscardHandler)
	}
	busy, err := r.begin(ctx, req.About.Node, req.Process, req.About.Created)
	defer func() { // also when it is not known whether the mark was stored
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		if e := r.store.Remove(ctx, busy); e != nil && err == nil && !errors.Is(e, target.ErrAbsent) {
			req.Log.Warn("the mark of a save that is done stays", "name", busy, "err", e)
		}
	}()
	if err != nil {
		return nil, "", Stats{}, err
	}
	// Only now: what is about to be removed is told by marks that were there before ours, or their makers see ours.
	known, err := r.known(ctx, req.Log)
	if err != nil {
		return nil, "", Stats{}, err
	}
	w := &saver{r: r, ctx: ctx, req: &req, known: known, fresh: make(map[pieceKey]bool), total: state.Size()}
	m, body, err := w.files(state)
	if err != nil {
		return nil, "", w.stats, err
	}
	name = SaveName(m.Index, m.LogTime, req.Run)
	if err := w.manifest(name, m, body, state); err != nil {
		return nil, "", w.stats, err
	}
	if err := r.stillBusy(ctx, busy); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		return nil, "", w.stats, errors.Join(err, r.store.Remove(ctx, name))
	}
	if req.Cache != nil {
		req.Cache.keep(w.cached)
	}
	return m, name, w.stats, nil
}

type pieceKey [sha256.Size]byte

// saver makes one save.
type saver struct {
	r      *Repository
	ctx    context.Context
	req    *Request
	known  *known
	packer *packer
	fresh  map[pieceKey]bool // pieces that this save stores itself
	packs  []packEntry       // that it stored
	cached []cachedFile
	done   int64
	total  int64
	stats  Stats
}

// savedFile is a file and the pieces that make it.
type savedFile struct {
	name   string
	size   int64
	sum    string
	pieces []pieceKey
}

func (w *saver) files(state State) (*backup.Manifest, *saveBody, error) {
	m := w.req.About.Manifest()
	for _, k := range w.req.Keys {
		m.Keys = append(m.Keys, k.Name)
	}
	to, err := w.r.packRecipients()
	if err != nil {
		return nil, nil, err
	}
	if w.packer, err = w.r.newPacker(w.ctx, to, func(e packEntry) { w.packs = append(w.packs, e) }); err != nil {
		return nil, nil, err
	}
	defer w.packer.z.Close()
	var files []savedFile
	buf := make([]byte, pieceSize)
	whole := sha256.New()
	for _, member := range state.Members() {
		if err := w.ctx.Err(); err != nil {
			return nil, nil, err
		}
		f := savedFile{name: member.Name}
		if !strings.HasSuffix(member.Name, "/") {
			if f, err = w.file(&member, buf); err != nil {
				return nil, nil, fmt.Errorf("save %s: %w", member.Name, err)
			}
			m.Files = append(m.Files, backup.File{Name: f.name, Size: f.size, SHA256: f.sum})
			fmt.Fprintf(whole, "%s %d %s\n", f.sum, f.size, f.name)
		}
		files = append(files, f)
		w.progress(f.size)
	}
	if err := w.packer.flush(); err != nil {
		return nil, nil, err
	}
	w.stats.Stored = w.packer.stored
	for i := range w.packs {
		w.stats.stored = append(w.stats.stored, w.packs[i].Name)
	}
	// No stream was made whose hash there could be: this one is of the list of files.
	m.Image = backup.File{Name: "files", Size: state.Size(), SHA256: hex.EncodeToString(whole.Sum(nil))}
	body, err := w.body(files)
	return &m, body, err
}

func (w *saver) progress(n int64) {
	w.done += n
	if w.req.Progress != nil {
		w.req.Progress(min(w.done, w.total), w.total)
	}
}

// file finds or stores the pieces of a file.
func (w *saver) file(member *snapshot.Member, buf []byte) (savedFile, error) {
	f, err := os.Open(member.Path)
	if err != nil {
		return savedFile{}, err
	}
	defer f.Close()
	if out, ok := w.unchanged(f, member); ok {
		return out, nil
	}
	if strings.HasPrefix(member.Name, snapshot.KindMeta+"/") {
		buf = buf[:pieceSizeMeta]
	}
	began := time.Now()
	sum := sha256.New()
	out := savedFile{name: member.Name, size: member.Size}
	for left := member.Size; left > 0; {
		if err := w.ctx.Err(); err != nil {
			return savedFile{}, err
		}
		b := buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(f, b); err != nil {
			return savedFile{}, fmt.Errorf("it is shorter than the %d bytes announced: %w", member.Size, err)
		}
		left -= int64(len(b))
		sum.Write(b)
		id := w.r.pieceID(b)
		out.pieces = append(out.pieces, id)
		w.stats.Read += int64(len(b))
		if w.fresh[id] || w.known.has(id) {
			continue
		}
		w.fresh[id] = true
		w.stats.New += int64(len(b))
		if err := w.packer.add(id, b); err != nil {
			return savedFile{}, err
		}
	}
	out.sum = hex.EncodeToString(sum.Sum(nil))
	w.remember(f, member, out.sum, began)
	return out, nil
}

// unchanged finds a file that cannot have changed since a save before, without reading it.
func (w *saver) unchanged(f *os.File, member *snapshot.Member) (savedFile, bool) {
	if w.req.Cache == nil {
		return savedFile{}, false
	}
	c, ok := w.req.Cache.find(f, member)
	if !ok {
		return savedFile{}, false
	}
	// Which pieces make it says the repository, and that they are there too.
	held, ok := w.known.files[member.Name]
	if !ok || held.sum != c.Sum || held.size != member.Size {
		return savedFile{}, false
	}
	for _, id := range held.pieces {
		if !w.known.has(id) && !w.fresh[id] {
			return savedFile{}, false
		}
	}
	w.cached = append(w.cached, c)
	return held, true
}

func (w *saver) remember(f *os.File, member *snapshot.Member, sum string, began time.Time) {
	if w.req.Cache == nil {
		return
	}
	if c, ok := seen(f, member, sum, began); ok {
		w.cached = append(w.cached, c)
	}
}

// packRecipients are those who can read pieces and the log.
func (r *Repository) packRecipients() ([]age.Recipient, error) {
	to := r.recipients
	if len(to) == 0 || !r.about.Drill {
		return to, nil
	}
	own, err := r.ownRecipient()
	return append(to[:len(to):len(to)], own), err
}

// manifestRecipients are those who can read manifests: also the cluster itself, for its next save.
func (r *Repository) manifestRecipients() ([]age.Recipient, error) {
	if len(r.recipients) == 0 {
		return nil, nil
	}
	own, err := r.ownRecipient()
	return append(r.recipients[:len(r.recipients):len(r.recipients)], own), err
}

func (r *Repository) ownRecipient() (age.Recipient, error) {
	id, err := age.ParseX25519Identity(r.secret.Identity)
	if err != nil {
		return nil, fmt.Errorf("key of the repository: %w", err)
	}
	return id.Recipient(), nil
}

// manifest stores the manifest, by which the save becomes one.
func (w *saver) manifest(name string, m *backup.Manifest, body *saveBody, state State) error {
	r := w.r
	var err error
	if len(w.req.Keys) > 0 {
		if body.Keys, err = w.sealKeys(); err != nil {
			return err
		}
	}
	body.Image = state.Header()
	h := container.Header{
		Cluster: m.Cluster, Node: m.Node, Index: m.Index, Term: m.Term, LogTime: m.LogTime, Format: m.Format, Created: m.Created,
		Program: m.Program, Digest: m.Digest, Content: container.ContentSaveV1, ImageBytes: state.Size(), Encryption: r.about.Encryption,
		Damaged: len(m.Damage) > 0,
	}
	switch {
	case body.Keys == nil:
	case r.Encrypted():
		h.Keys = container.KeysInside
	default:
		h.Keys = container.KeysSealed
	}
	n, err := r.store.Put(w.ctx, name, 0, func(out io.Writer) error { return r.writeManifest(out, h, m, body) })
	if err != nil {
		return fmt.Errorf("store manifest: %w", err)
	}
	w.stats.Stored += n
	w.stats.Packs = len(body.Packs)
	for i := range body.Packs {
		w.stats.Total += body.Packs[i].Size
	}
	return nil
}
