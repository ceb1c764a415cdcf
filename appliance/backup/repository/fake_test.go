package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// place keeps objects in memory.
type place struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func newPlace() *place { return &place{objects: make(map[string][]byte)} }

// client is how one process reaches a place. step, when set, is asked before each operation: with an error the process
// is dead, and nothing that it does from then on happens.
type client struct {
	*place
	step func(what string) error
}

func (c *client) before(what string) error {
	if c.step == nil {
		return nil
	}
	return c.step(what)
}

func (c *client) String() string { return "memory" }

func (c *client) Put(_ context.Context, name string, _ int64, write func(io.Writer) error) (int64, error) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return 0, err
	}
	if err := c.before("put " + name); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.objects[name]; ok {
		return 0, fmt.Errorf("%s: %w", name, target.ErrExists)
	}
	c.objects[name] = b.Bytes()
	return int64(b.Len()), nil
}

func (c *client) get(name string) ([]byte, error) {
	if err := c.before("get " + name); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.objects[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, target.ErrAbsent)
	}
	return b, nil
}

func (c *client) Open(_ context.Context, name string) (io.ReadCloser, int64, error) {
	b, err := c.get(name)
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), err
}

func (c *client) OpenRange(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	b, err := c.get(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(bytes.NewReader(b), off, n)), nil
}

func (c *client) List(_ context.Context, prefix string, fn func(target.Item) error) error {
	if err := c.before("list " + prefix); err != nil {
		return err
	}
	c.mu.Lock()
	var items []target.Item
	for _, name := range slices.Sorted(maps.Keys(c.objects)) {
		if strings.HasPrefix(name, prefix) {
			items = append(items, target.Item{Name: name, Size: int64(len(c.objects[name]))})
		}
	}
	c.mu.Unlock()
	for _, i := range items {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) Remove(_ context.Context, name string) error {
	if err := c.before("remove " + name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.objects[name]; !ok {
		return fmt.Errorf("%s: %w", name, target.ErrAbsent)
	}
	delete(c.objects, name)
	return nil
}

// state is a state of files on disk.
type state struct {
	t     testing.TB
	dir   string
	index uint64
}

func newState(t testing.TB) *state { return &state{t: t, dir: t.TempDir()} }

func (s *state) write(name string, body []byte) {
	s.t.Helper()
	path := filepath.Join(s.dir, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, body, 0o600)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *state) remove(name string) {
	if err := os.Remove(filepath.Join(s.dir, filepath.FromSlash(name))); err != nil {
		s.t.Fatal(err)
	}
}

func (s *state) image() *snapshot.Image {
	s.t.Helper()
	var parts []snapshot.Part
	for _, kind := range []string{snapshot.KindMetrics, snapshot.KindLogs, snapshot.KindMeta} {
		dir := filepath.Join(s.dir, kind)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			s.t.Fatal(err)
		}
		parts = append(parts, snapshot.Part{Name: kind, Dir: dir})
	}
	img, err := snapshot.NewImage(snapshot.Header{Index: s.index, Term: 1, Node: "n1"}, parts)
	if err != nil {
		s.t.Fatal(err)
	}
	return img
}

func (s *state) bytes() []byte {
	s.t.Helper()
	var b bytes.Buffer
	if err := s.image().WriteTo(context.Background(), &b); err != nil {
		s.t.Fatal(err)
	}
	return b.Bytes()
}

// imageState makes a State of an image.
type imageState struct{ *snapshot.Image }

func (i imageState) Header() snapshot.Header { return i.Image.Header }

func someBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = r.Read(b)
	return b
}

var someScope = Scope{Cluster: "c1", Incarnation: "i1"}

var someKeys = []backup.KeyFile{{Name: "ca.pem", Body: []byte("certificate")}, {Name: "ca-key.pem", Body: []byte("the private key of the CA")}}

func newIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newSecret(t testing.TB, encrypted bool) *Secret {
	t.Helper()
	s, err := NewSecret(encrypted)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func opened(t testing.TB, store Store, scope Scope, secret *Secret) *Repository {
	t.Helper()
	r, err := Open(context.Background(), store, &scope, secret)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func request(s *state, run string) Request {
	return Request{
		About: backup.About{Cluster: "c1", Node: "n1", Program: "test", Created: 5, State: meta.Summary{
			Mark: meta.Mark{Index: s.index, Term: 1}, LogTime: int64(s.index) * 1000, Format: 1, Sum: "s",
		}},
		Keys: someKeys, Run: run, Process: "p1",
	}
}

func saved(t testing.TB, r *Repository, s *state, run string) (string, Stats) {
	t.Helper()
	_, name, st, err := r.Save(context.Background(), imageState{s.image()}, request(s, run))
	if err != nil {
		t.Fatal(err)
	}
	return name, st
}

// image reads a save.
func image(r *Repository, name string) ([]byte, *backup.Backup, error) {
	var b bytes.Buffer
	got, err := r.Source(name).Read(context.Background(), nil, func(_ container.Header, in io.Reader) error {
		_, err := io.Copy(&b, in)
		return err
	})
	return b.Bytes(), got, err
}
