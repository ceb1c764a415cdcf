package target

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/backup/target/s3test"
)

func put(t *testing.T, k Target, name string, body []byte) {
	t.Helper()
	n, err := k.Put(t.Context(), name, int64(len(body)), func(w io.Writer) error {
		_, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(body)})
		return err
	})
	if err != nil || n != int64(len(body)) {
		t.Fatalf("put %s: %d of %d bytes, %v", name, n, len(body), err)
	}
}

func get(t *testing.T, k Target, name string) ([]byte, error) {
	t.Helper()
	r, size, err := k.Open(t.Context(), name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err == nil && size != int64(len(body)) {
		t.Errorf("%s: %d bytes, %d said", name, len(body), size)
	}
	return body, err
}

// behaves is what every target must do. left lists what lies in it.
func behaves(t *testing.T, k Target, left func() []string) {
	large := make([]byte, 40<<20) // three parts in S3
	_, _ = rand.Read(large)
	for name, body := range map[string][]byte{"a.triward": large, "b.triward": []byte("small"), "c.triward": {}} {
		put(t, k, name, body)
		if got, err := get(t, k, name); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %d of %d bytes came back, %v", name, len(got), len(body), err)
		}
	}
	if _, err := k.Put(t.Context(), "b.triward", 0, func(w io.Writer) error { _, err := w.Write([]byte("other")); return err }); !errors.Is(err, ErrExists) {
		t.Errorf("over another: %v", err)
	}
	if got, err := get(t, k, "b.triward"); err != nil || string(got) != "small" {
		t.Errorf("what was there is now %q, %v", got, err)
	}
	broken := errors.New("the source broke")
	for _, n := range []int{0, 100, 30 << 20} {
		_, err := k.Put(t.Context(), "d.triward", 0, func(w io.Writer) error {
			_, err := w.Write(large[:n])
			return errors.Join(err, broken)
		})
		if !errors.Is(err, broken) {
			t.Errorf("a source that breaks after %d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := k.Put(ctx, "d.triward", 0, func(w io.Writer) error {
		_, err := w.Write(large[:20<<20])
		cancel()
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if _, err := get(t, k, "d.triward"); !errors.Is(err, ErrAbsent) {
		t.Errorf("what failed is there: %v", err)
	}
	for _, name := range []string{"", "../x", "a/b", ".hidden", "a..b", strings.Repeat("a", 300)} {
		if _, err := k.Put(t.Context(), name, 0, func(io.Writer) error { return nil }); !errors.Is(err, ErrInvalid) {
			t.Errorf("put %q: %v", name, err)
		}
		if err := k.Remove(t.Context(), name); !errors.Is(err, ErrInvalid) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if err := k.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := k.Remove(t.Context(), "c.triward"); err != nil {
		t.Error(err)
	}
	if err := k.Remove(t.Context(), "c.triward"); !errors.Is(err, ErrAbsent) {
		t.Errorf("removed twice: %v", err)
	}
	if got := left(); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
	places(t, k)
	if got := left(); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
}

// places looks for what lies below a target: at any depth, whatever the places are called, and nothing of what lies beside it.
func places(t *testing.T, k Target) {
	t.Helper()
	listed := func(k Target) (names []string) {
		t.Helper()
		if err := k.Places(t.Context(), func(name string) error { names = append(names, name); return nil }); err != nil {
			t.Error(err)
		}
		slices.Sort(names)
		return names
	}
	if got := listed(k.Below("nothing")); len(got) != 0 {
		t.Errorf("in nothing: %q", got)
	}
	want := []string{"%2Fvar%20log", "-", "a", "aa", "long~0123"}
	for _, name := range want {
		at := k.Below(name).Below("deeper").Below("b+b c")
		put(t, at, "x", []byte("x"))
		if got := listed(k.Below(name)); !slices.Equal(got, []string{"deeper"}) {
			t.Errorf("in %q: %q", name, got)
		}
		if got := listed(k.Below(name).Below("deeper")); !slices.Equal(got, []string{"b+b c"}) {
			t.Errorf("in %q: %q", name, got)
		}
		if got := listed(at); len(got) != 0 {
			t.Errorf("an object is a place: %q", got)
		}
	}
	if got := listed(k); !slices.Equal(got, want) {
		t.Errorf("places %q, want %q", got, want)
	}
	enough := errors.New("enough")
	if err := k.Places(t.Context(), func(string) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a listing that is ended: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Places(ended, func(string) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a listing whose time is over: %v", err)
	}
	for _, name := range want {
		if err := k.Below(name).Below("deeper").Below("b+b c").Remove(t.Context(), "x"); err != nil {
			t.Error(err)
		}
	}
}

func below(t *testing.T, dir string) func() []string {
	return func() (names []string) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				names = append(names, path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return names
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	f := &Folder{Dir: dir}
	behaves(t, f, below(t, dir))
	if err := os.WriteFile(filepath.Join(dir, ".x.partial-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.CleanPartial(time.Now().Add(-time.Hour)); err != nil || len(below(t, dir)()) != 3 {
		t.Errorf("what may be under way was touched: %v", err)
	}
	if err := f.CleanPartial(time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if got := below(t, dir)(); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
}

func TestS3(t *testing.T) {
	service := s3test.Start(t)
	cfg := S3Config{
		URL: service.URL("site/a"), Endpoint: service.Endpoint, AccessKey: service.AccessKey, SecretKey: service.SecretKey, CA: service.CA,
	}
	k, err := NewS3(cfg)
	if err != nil {
		t.Fatal(err)
	}
	behaves(t, k, below(t, filepath.Join(service.Dir, s3test.Bucket)))
	if _, err := os.Stat(service.Object("site/a/a.triward")); err != nil {
		t.Errorf("the object lies elsewhere: %v", err)
	}
	for name, c := range map[string]struct {
		change func(*S3Config)
		says   string
	}{
		"wrong secret":   {func(c *S3Config) { c.SecretKey = "wrong secret key" }, "does not take the access key"},
		"wrong key":      {func(c *S3Config) { c.AccessKey = "nobody" }, "does not take the access key"},
		"no such bucket": {func(c *S3Config) { c.URL = "s3://elsewhere/x" }, "has no bucket"},
		"another CA":     {func(c *S3Config) { c.CA = nil }, "certificate"},
	} {
		bad := cfg
		c.change(&bad)
		k, err := NewS3(bad)
		if err == nil {
			err = k.Check(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), bad.SecretKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	service.Stop()
	if err := k.Check(t.Context()); err == nil {
		t.Error("a service that is gone was found good")
	}
}

func TestWhatIsNoS3Target(t *testing.T) {
	good := S3Config{URL: "s3://bucket/prefix", Endpoint: "https://host:9000", AccessKey: "a", SecretKey: "b"}
	if err := CheckS3(&good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*S3Config){
		"no address":        func(c *S3Config) { c.URL = "" },
		"http address":      func(c *S3Config) { c.URL = "http://bucket/x" },
		"secrets in it":     func(c *S3Config) { c.URL = "s3://user:secret@bucket/x" },
		"bad bucket":        func(c *S3Config) { c.URL = "s3://B_/x" },
		"bad prefix":        func(c *S3Config) { c.URL = "s3://bucket/a//b" },
		"endpoint no URL":   func(c *S3Config) { c.Endpoint = "host:9000" },
		"endpoint and path": func(c *S3Config) { c.Endpoint = "https://host/x" },
		"no key":            func(c *S3Config) { c.AccessKey = "" },
		"no certificate":    func(c *S3Config) { c.CA = []byte("x") },
	} {
		c := good
		change(&c)
		if err := CheckS3(&c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l, err := ParseLocation("s3://bucket/a/b/"); err != nil || l.Key("x") != "a/b/x" || l.String() != "s3://bucket/a/b" {
		t.Errorf("%+v, %v", l, err)
	}
}
