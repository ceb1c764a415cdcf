package container

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func sample(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, Header{Cluster: "c", Node: "n1", Index: 42, Term: 7, Encryption: EncryptionAge})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Written() != int64(b.Len()) {
		t.Fatalf("%d bytes, %d said", b.Len(), w.Written())
	}
	return b.Bytes()
}

func readAll(b []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, frameSize - 1, frameSize, frameSize + 1, 3*frameSize + 17} {
		content := make([]byte, size)
		_, _ = rand.Read(content)
		b := sample(t, content)
		r, err := NewReader(iotest.OneByteReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		if r.Header.Index != 42 || r.Header.Node != "n1" {
			t.Fatalf("header %+v", r.Header)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes: %d came back, %v", size, len(got), err)
		}
		if r.Consumed() != int64(len(b)) {
			t.Errorf("consumed %d of %d", r.Consumed(), len(b))
		}
	}
}

// refused says that a reader takes b for no whole backup.
func refused(t *testing.T, what string, b []byte) {
	t.Helper()
	_, err := readAll(b)
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotBackup) && !errors.Is(err, ErrVersion) {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	b := sample(t, []byte(strings.Repeat("content ", 40)))
	for n := range b {
		refused(t, "cut", b[:n])
	}
	refused(t, "prolonged", append(bytes.Clone(b), 0))
	refused(t, "twice", append(bytes.Clone(b), b...))
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	b := sample(t, []byte(strings.Repeat("content ", 40)))
	for i := range b {
		for bit := range 8 {
			b[i] ^= 1 << bit
			refused(t, "flipped", b)
			b[i] ^= 1 << bit
		}
	}
	if _, err := readAll(b); err != nil {
		t.Fatal(err)
	}
}

func TestFramesCannotChangePlaces(t *testing.T) {
	content := make([]byte, 3*frameSize)
	_, _ = rand.Read(content)
	b := sample(t, content)
	first := bytes.IndexByte(b[prefixSize:], '}') + prefixSize + 1 + crcSize
	whole := frameHead + frameSize + crcSize
	swapped := bytes.Clone(b)
	copy(swapped[first:], b[first+whole:first+2*whole])
	copy(swapped[first+whole:], b[first:first+whole])
	refused(t, "swapped", swapped)
	refused(t, "one left out", append(bytes.Clone(b[:first+whole]), b[first+2*whole:]...))
}

func TestOtherFormats(t *testing.T) {
	b := sample(t, []byte("x"))
	b[len(magic)] = 2
	if _, err := readAll(b); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: %v", err)
	}
	for _, other := range []string{"", "TRI", "PK\x03\x04 a zip of some length", strings.Repeat("\x00", 100)} {
		if _, err := readAll([]byte(other)); !errors.Is(err, ErrNotBackup) {
			t.Errorf("%q: %v", other, err)
		}
	}
}

func TestErrorsOfTheSourceAreNoDamage(t *testing.T) {
	b := sample(t, []byte("content"))
	broken := errors.New("the disk is gone")
	for n := range b {
		r, err := NewReader(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken)))
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrDamaged) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

type shortWriter struct{ left int }

func (w *shortWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		n := w.left
		w.left = 0
		return n, io.ErrClosedPipe
	}
	w.left -= len(p)
	return len(p), nil
}

func TestWriterReportsWhatCouldNotBeWritten(t *testing.T) {
	total := len(sample(t, []byte("content")))
	for n := range total {
		w, err := NewWriter(&shortWriter{n}, Header{Cluster: "c", Node: "n1", Index: 42, Term: 7, Encryption: EncryptionAge})
		if err == nil {
			_, err = w.Write([]byte("content"))
		}
		if err == nil {
			err = w.Close()
		}
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Fatalf("room for %d of %d bytes: %v", n, total, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(sample(f, []byte("content")))
	f.Add(sample(f, nil))
	f.Add([]byte(magic + "\x01\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readAll(b)
		if err != nil {
			return
		}
		// What is accepted is exactly one container of that content.
		r, _ := NewReader(bytes.NewReader(b))
		var again bytes.Buffer
		w, err := NewWriter(&again, r.Header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(got); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if back, err := readAll(again.Bytes()); err != nil || !bytes.Equal(back, got) {
			t.Fatalf("content of an accepted container does not come back: %v", err)
		}
	})
}
