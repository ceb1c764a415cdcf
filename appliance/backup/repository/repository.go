package repository

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
)

// Store is what a repository needs of the place that keeps it; target.Target is one. Put must store an object whole and
// durably or not at all and refuse a name that is taken; List must tell all that was stored before it was called.
type Store interface {
	Put(ctx context.Context, name string, expected int64, write func(io.Writer) error) (int64, error)
	Open(ctx context.Context, name string) (r io.ReadCloser, size int64, err error)
	OpenRange(ctx context.Context, name string, offset, n int64) (io.ReadCloser, error)
	List(ctx context.Context, prefix string, fn func(target.Item) error) error
	Remove(ctx context.Context, name string) error
	String() string
}

// Secret is what a writer must know of an encrypted repository to find what is there already. It opens manifests, of
// which the names and digests of files can be read, and with Drill everything.
type Secret struct {
	Hash     []byte `json:"hash"`               // key of the hash that names pieces
	Identity string `json:"identity,omitempty"` // private key of age; "" in a repository that is not encrypted
}

// NewSecret makes one.
func NewSecret(encrypted bool) (*Secret, error) {
	s := &Secret{Hash: make([]byte, sha256.Size)}
	_, _ = rand.Read(s.Hash) // never fails
	if encrypted {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, fmt.Errorf("make key of a repository: %w", err)
		}
		s.Identity = id.String()
	}
	return s, nil
}

// Identities is what the secret opens by itself: everything of a repository that is not encrypted or lets the cluster try
// restores, otherwise the manifests.
func (s *Secret) Identities() ([]age.Identity, error) {
	if s.Identity == "" {
		return nil, nil
	}
	id, err := age.ParseX25519Identity(s.Identity)
	if err != nil {
		return nil, fmt.Errorf("key of the repository: %w", err)
	}
	return []age.Identity{id}, nil
}

// Scope says what a repository is of, so that two never mix: another incarnation of the cluster, which may give the same
// index to other entries, and other readers, who could not read what was stored before, have another one.
type Scope struct {
	Cluster     string
	Incarnation string
	Recipients  []string // public keys of age; none: not encrypted
	// Drill lets the cluster itself read the repository, to try restores.
	Drill bool
}

// ID names the repository of a scope.
func (s *Scope) ID() string {
	keys := slices.Clone(s.Recipients)
	slices.Sort(keys)
	h := sha256.New()
	fmt.Fprintf(h, "triward repository %d\n%q %q %q %t", Version, s.Cluster, s.Incarnation, slices.Compact(keys), s.Drill)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Folder is the name of the folder, or of the part of a prefix, of the repository of a scope.
func (s *Scope) Folder() string { return FolderPrefix + s.ID() }

// about is repository.json.
type about struct {
	Triward     string `json:"triward"` // "repository"
	Version     int    `json:"version"`
	ID          string `json:"id"`
	Cluster     string `json:"cluster"`
	Incarnation string `json:"incarnation"`
	Encryption  string `json:"encryption"` // "age" or ""
	Drill       bool   `json:"drill,omitempty"`
	// Secret is the JSON of Secret; when there are recipients, encrypted by age to them and to the secret's own key.
	Secret []byte `json:"secret"`
}

const maxAbout = 1 << 20

// Repository is one that was opened.
type Repository struct {
	store      Store
	about      about
	secret     *Secret // nil: nothing opens it
	recipients []age.Recipient
	identities []age.Identity // that open packs and segments
	manifests  []age.Identity // that open manifests
}

// Open opens the repository of a scope for writing, and makes it when there is none. All writers of one scope must have
// the same secret.
func Open(ctx context.Context, store Store, scope *Scope, secret *Secret) (*Repository, error) {
	r := &Repository{store: store, secret: secret}
	var err error
	if r.recipients, err = backup.Recipients(scope.Recipients, ""); err != nil {
		return nil, err
	}
	if (len(r.recipients) > 0) != (secret.Identity != "") {
		return nil, errors.New("open repository: the secret does not belong to it")
	}
	if err := r.useSecret(scope.Drill); err != nil {
		return nil, err
	}
	held, err := readAbout(ctx, store)
	if errors.Is(err, ErrNotRepository) {
		made, err := r.create(ctx, scope)
		if made || err != nil {
			return r, err
		}
		held, err = readAbout(ctx, store) // another was faster
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if held.ID != scope.ID() || held.Cluster != scope.Cluster || held.Incarnation != scope.Incarnation {
		return nil, fmt.Errorf("%s: %w: of cluster %.60q", store, ErrForeign, held.Cluster)
	}
	if err := r.sameSecret(held); err != nil {
		return nil, err
	}
	r.about = *held
	return r, nil
}

// sameSecret makes sure that readers, who take the secret from the repository, can read what is written with ours.
func (r *Repository) sameSecret(held *about) error {
	body := held.Secret
	var err error
	if held.Encryption != "" {
		body, err = unsealed(body, r.manifests)
	}
	var theirs Secret
	if err == nil {
		err = json.Unmarshal(body, &theirs)
	}
	if err != nil || !hmac.Equal(theirs.Hash, r.secret.Hash) || theirs.Identity != r.secret.Identity {
		return errors.Join(fmt.Errorf("%s: %w: it was made with another key than this cluster has for it, and could not be read with both; "+
			"move its folder away (it stays readable with its own keys), and a new one is begun", r.store, ErrForeign), err)
	}
	return nil
}

// useSecret makes the key of the secret open what it may.
func (r *Repository) useSecret(drill bool) error {
	if r.secret.Identity == "" {
		return nil
	}
	id, err := age.ParseX25519Identity(r.secret.Identity)
	if err != nil {
		return fmt.Errorf("key of the repository: %w", err)
	}
	r.manifests = append(r.manifests, id)
	if drill {
		r.identities = append(r.identities, id)
	}
	return nil
}

// create makes the repository; made is false when there is one meanwhile.
func (r *Repository) create(ctx context.Context, scope *Scope) (made bool, err error) {
	body, err := json.Marshal(r.secret)
	if err != nil {
		return false, fmt.Errorf("encode secret of the repository: %w", err)
	}
	r.about = about{
		Triward: "repository", Version: Version, ID: scope.ID(), Cluster: scope.Cluster, Incarnation: scope.Incarnation,
		Drill: scope.Drill, Secret: body,
	}
	if len(r.recipients) > 0 {
		r.about.Encryption = container.EncryptionAge
		to, err := r.manifestRecipients()
		if err != nil {
			return false, err
		}
		if r.about.Secret, err = sealed(body, to); err != nil {
			return false, err
		}
	}
	out, err := json.MarshalIndent(&r.about, "", " ")
	if err != nil {
		return false, fmt.Errorf("encode repository: %w", err)
	}
	err = putBytes(ctx, r.store, fileRepository, out)
	if errors.Is(err, target.ErrExists) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("make repository in %s: %w", r.store, err)
	}
	return true, nil
}

// Look opens a repository for reading. identities may open it; without any only what needs no key can be done.
func Look(ctx context.Context, store Store, identities []age.Identity) (*Repository, error) {
	held, err := readAbout(ctx, store)
	if err != nil {
		return nil, err
	}
	r := &Repository{store: store, about: *held, identities: identities, manifests: identities}
	if held.Encryption == "" {
		return r, r.takeSecret(held.Secret)
	}
	if len(identities) == 0 {
		return r, nil
	}
	body, err := unsealed(held.Secret, identities)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", store, err)
	}
	return r, r.takeSecret(body)
}

func (r *Repository) takeSecret(body []byte) error {
	r.secret = new(Secret)
	if err := json.Unmarshal(body, r.secret); err != nil || len(r.secret.Hash) != sha256.Size {
		return fmt.Errorf("%w: the secret of the repository is unusable", backup.ErrContent)
	}
	return nil
}

func readAbout(ctx context.Context, store Store) (*about, error) {
	body, err := getBytes(ctx, store, fileRepository, maxAbout)
	if errors.Is(err, target.ErrAbsent) {
		return nil, fmt.Errorf("%s: %w", store, ErrNotRepository)
	}
	if err != nil {
		return nil, err
	}
	var a about
	if err := json.Unmarshal(body, &a); err != nil || a.Triward != "repository" {
		return nil, fmt.Errorf("%s: %w: its %s is not one", store, ErrNotRepository, fileRepository)
	}
	if a.Version != Version {
		return nil, fmt.Errorf("%s: %w: %d, this program reads %d", store, ErrVersion, a.Version, Version)
	}
	if a.Encryption != "" && a.Encryption != container.EncryptionAge {
		return nil, fmt.Errorf("%s: %w: it is encrypted by %.20q", store, ErrVersion, a.Encryption)
	}
	return &a, nil
}

// Encrypted reports whether the repository is encrypted.
func (r *Repository) Encrypted() bool { return r.about.Encryption != "" }

// Saves lists the backups, the oldest index first.
func (r *Repository) Saves(ctx context.Context) ([]Save, error) {
	var out []Save
	err := r.store.List(ctx, prefixSave, func(i target.Item) error {
		if s, ok := parseSave(i.Name, i.Size); ok {
			out = append(out, s)
		}
		return nil
	})
	return out, err
}

// Choose returns the newest backup that is not after the entry index, and not after the log time at; 0 is no bound.
func (r *Repository) Choose(ctx context.Context, index uint64, at int64) (Save, error) {
	saves, err := r.Saves(ctx)
	if err != nil {
		return Save{}, err
	}
	for _, s := range slices.Backward(saves) {
		if (index == 0 || s.Index <= index) && (at == 0 || s.LogTime <= at) {
			return s, nil
		}
	}
	switch {
	case len(saves) == 0:
		return Save{}, fmt.Errorf("%s: %w: it holds none", r.store, ErrNoSave)
	case index > 0:
		return Save{}, fmt.Errorf("%s: %w: the oldest is of entry %d", r.store, ErrNoSave, saves[0].Index)
	}
	return Save{}, fmt.Errorf("%s: %w: the oldest is of log time %d ms", r.store, ErrNoSave, saves[0].LogTime)
}

// pieceID names a piece by what it holds.
func (r *Repository) pieceID(b []byte) [sha256.Size]byte {
	m := hmac.New(sha256.New, r.secret.Hash)
	m.Write(b)
	return [sha256.Size]byte(m.Sum(nil))
}

func sealed(b []byte, to []age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return out.Bytes(), nil
}

// unsealed opens what sealed made. A key that does not fit is backup.ErrKey, anything else backup.ErrContent.
func unsealed(b []byte, ids []age.Identity) ([]byte, error) {
	if len(ids) == 0 {
		return nil, fmt.Errorf("%w: none was given", backup.ErrKey)
	}
	plain, err := age.Decrypt(bytes.NewReader(b), ids...)
	if err != nil {
		return nil, whyClosed(err)
	}
	out, err := io.ReadAll(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backup.ErrContent, err)
	}
	return out, nil
}

func whyClosed(err error) error {
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return backup.ErrKey
	}
	return fmt.Errorf("%w: %w", backup.ErrContent, err)
}

func putBytes(ctx context.Context, store Store, name string, b []byte) error {
	_, err := store.Put(ctx, name, int64(len(b)), func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	return err
}

func getBytes(ctx context.Context, store Store, name string, most int64) ([]byte, error) {
	in, size, err := store.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if size > most {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are expected", backup.ErrContent, name, size, most)
	}
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s from %s: %w", name, store, err)
	}
	return b, nil
}

func newID() string { return strings.ToLower(rand.Text()[:12]) }
