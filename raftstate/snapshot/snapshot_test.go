package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	file := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func targets(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{KindMetrics: t.TempDir(), KindLogs: t.TempDir()}
}

func TestImageRoundTrip(t *testing.T) {
	tsdb, logs := t.TempDir(), t.TempDir()
	long := strings.Repeat("long-name/", 30) + "file"
	files := map[string]string{"a": "", "wal/00000001": strings.Repeat("w", 100_000), long: "deep", "z": strings.Repeat("z", 512)}
	for name, content := range files {
		write(t, tsdb, name, content)
	}
	if err := os.MkdirAll(filepath.Join(tsdb, "empty", "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, logs, "000001.sst", "table")
	img, err := NewImage(Header{Index: 42, Term: 7, Node: "n1"}, []Part{{KindMetrics, tsdb}, {KindLogs, logs}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // it can be read more than once
		r := img.Open()
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) != img.Size() {
			t.Fatalf("%d bytes, announced were %d", len(b), img.Size())
		}
		to := targets(t)
		h, err := Unpack(context.Background(), bytes.NewReader(b), to, 1)
		if err != nil || h.Index != 42 || h.Term != 7 || h.Node != "n1" {
			t.Fatalf("header %+v, %v", h, err)
		}
		for name, content := range files {
			got, err := os.ReadFile(filepath.Join(to[KindMetrics], filepath.FromSlash(name)))
			if err != nil || string(got) != content {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
		if _, err := os.Stat(filepath.Join(to[KindMetrics], "empty", "dir")); err != nil {
			t.Error(err)
		}
	}
	if err := os.Truncate(filepath.Join(tsdb, "z"), 3); err != nil {
		t.Fatal(err)
	}
	r := img.Open()
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a file that shrank was streamed")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// archive builds a tar of members, header first.
func archive(t *testing.T, members ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range members {
		content := []byte(h.Linkname)
		if h.Typeflag != tar.TypeSymlink {
			h.Linkname, h.Size = "", int64(len(content))
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Linkname: content, Mode: 0o600}
}

func TestHostileImages(t *testing.T) {
	head := file(headerName, `{"format":1}`)
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"no header":       archive(t, file("tsdb/a", "x")),
		"newer":           archive(t, file(headerName, `{"format":2}`), file(manifestName, "")),
		"newer state":     archive(t, file(headerName, `{"format":1,"cluster_format":2}`), file("tsdb/a", "x"), file(manifestName, "")),
		"no format":       archive(t, file(headerName, `{}`), file(manifestName, "")),
		"outside":         archive(t, head, file("tsdb/../../etc/passwd", "x"), file(manifestName, "")),
		"absolute":        archive(t, head, file("/etc/passwd", "x"), file(manifestName, "")),
		"unknown part":    archive(t, head, file("other/a", "x"), file(manifestName, "")),
		"link":            archive(t, head, &tar.Header{Name: "tsdb/a", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, file(manifestName, "")),
		"not in manifest": archive(t, head, file("tsdb/a", "x"), file(manifestName, "")),
		"wrong sum":       archive(t, head, file("tsdb/a", "x"), file(manifestName, "00000000 00000000000000000001 tsdb/a\n")),
		"missing":         archive(t, head, file(manifestName, "00000000 00000000000000000001 tsdb/a\n")),
		"after the end":   archive(t, head, file(manifestName, ""), file("tsdb/a", "x")),
		"no manifest":     archive(t, head, file("tsdb/a", "x")),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Unpack(context.Background(), bytes.NewReader(b), targets(t), 1); !errors.Is(err, ErrImage) || errors.Is(err, ErrNewer) != strings.HasPrefix(name, "newer") {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("IMAGE"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dirs := targets(t)
		if _, err := Unpack(context.Background(), bytes.NewReader(b), dirs, 1); err == nil && len(b) < 3*tarBlock {
			t.Error("accepted")
		}
	})
}

func TestLayout(t *testing.T) {
	l := NewLayout(t.TempDir())
	if g, err := l.Current(); g != "" || err != nil {
		t.Fatalf("generation of nothing: %q, %v", g, err)
	}
	first, err := l.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Flip(first), l.Sync(first)); err != nil {
		t.Fatal(err)
	}
	second, err := l.Next()
	if err != nil || second <= first {
		t.Fatalf("generation %q after %q, %v", second, first, err)
	}
	write(t, l.ImageDir(KindLogs, "1"), "x", "x")
	write(t, l.root, "logs/somebody-elses/x", "x")
	if err := l.Clean(first); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{
		l.Dir(KindLogs, first): true, l.Dir(KindLogs, second): false, l.ImageDir(KindLogs, "1"): false, l.Dir(KindLogs, "somebody-elses"): true,
	} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if g, err := l.Current(); g != first || err != nil {
		t.Errorf("current is %q, %v", g, err)
	}
	write(t, l.root, "meta/CURRENT", "../../etc\n")
	if _, err := l.Current(); !errors.Is(err, ErrCurrent) {
		t.Errorf("a CURRENT that names no generation: %v", err)
	}
}
