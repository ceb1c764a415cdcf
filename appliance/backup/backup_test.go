package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// tarState is an image of some files.
type tarState []byte

func (s tarState) Size() int64 { return int64(len(s)) }

func (s tarState) WriteTo(_ context.Context, w io.Writer) error {
	_, err := w.Write(s)
	return err
}

func someState(t testing.TB) tarState {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for i := range 5 {
		body := []byte(strings.Repeat(fmt.Sprint("file ", i), 200*i))
		if err := errors.Join(tw.WriteHeader(memberHeader(fmt.Sprint("logs/", i), int64(len(body))))); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func someAbout() About {
	return About{Cluster: "c1", Node: "n1", Program: "test", Created: 5, State: meta.Summary{
		Mark: meta.Mark{Index: 42, Term: 7}, LogTime: 9, Format: 1, Sum: "s", Keys: map[string]int{"users": 2},
		Digests: []meta.Digest{{Kind: command.KindLogs, Day: 3, Count: 2, Sum: meta.Sum{Lo: 1}}},
	}}
}

func identity(t testing.TB) (*age.X25519Identity, []age.Recipient) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := Recipients([]string{id.Recipient().String()}, "")
	if err != nil {
		t.Fatal(err)
	}
	return id, to
}

var someKeys = []KeyFile{{"ca.pem", []byte("certificate")}, {"ca-key.pem", []byte("the private key of the CA")}}

func written(t testing.TB, to []age.Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	m, size, err := Write(t.Context(), &b, someState(t), Request{About: someAbout(), Recipients: to, Keys: someKeys})
	if err != nil {
		t.Fatal(err)
	}
	if size != int64(b.Len()) || len(m.Files) != 5 || m.Index != 42 {
		t.Fatalf("%d bytes of %d, manifest %+v", size, b.Len(), m)
	}
	return b.Bytes()
}

func into(b *bytes.Buffer) func(container.Header, io.Reader) error {
	return func(_ container.Header, r io.Reader) error {
		_, err := io.Copy(b, r)
		return err
	}
}

func TestRoundTrip(t *testing.T) {
	id, to := identity(t)
	for name, encrypted := range map[string]bool{"plain": false, "encrypted": true} {
		t.Run(name, func(t *testing.T) {
			recipients := to
			if !encrypted {
				recipients = nil
			}
			b := written(t, recipients)
			var image bytes.Buffer
			got, err := Read(bytes.NewReader(b), []age.Identity{id}, into(&image))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(image.Bytes(), someState(t)) || got.Size != int64(len(b)) {
				t.Error("the image did not come back")
			}
			if got.Manifest.Count("logs") != 2 || got.Manifest.Files[2].Name != "logs/2" || got.Manifest.State.Keys["users"] != 2 {
				t.Errorf("manifest %+v", got.Manifest)
			}
			if encrypted != (len(got.Keys) == 2) || encrypted != (got.Header.Keys == container.KeysInside) {
				t.Errorf("keys %v, header says %v", got.Keys, got.Header.Keys)
			}
			if bytes.Contains(b, someKeys[1].Body) {
				t.Error("the private key stands in the backup in clear")
			}
		})
	}
}

// TestRecoveryKeyOpensTheKeysOfAPlainBackup writes a backup that is not encrypted: its private keys open with the
// recovery key alone.
func TestRecoveryKeyOpensTheKeysOfAPlainBackup(t *testing.T) {
	recovery, _ := identity(t)
	other, _ := identity(t)
	var b bytes.Buffer
	_, _, err := Write(t.Context(), &b, someState(t), Request{About: someAbout(), Keys: someKeys, Recovery: recovery.Recipient()})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b.Bytes(), someKeys[1].Body) {
		t.Error("the private key stands in the backup in clear")
	}
	for name, c := range map[string]struct {
		ids  []age.Identity
		keys int
		want error
	}{
		"no key": {nil, 0, nil}, "another": {[]age.Identity{other}, 0, ErrKey}, "the recovery key": {[]age.Identity{other, recovery}, 2, nil},
	} {
		got, err := Read(bytes.NewReader(b.Bytes()), c.ids, into(new(bytes.Buffer)))
		if err != nil {
			t.Fatal(err)
		}
		if err := got.OpenKeys(c.ids); !errors.Is(err, c.want) || len(got.Keys) != c.keys || got.Header.Keys != container.KeysSealed {
			t.Errorf("%s: %d keys, header %q, %v", name, len(got.Keys), got.Header.Keys, err)
		}
	}
}

func TestWrongKeysAreRefused(t *testing.T) {
	_, to := identity(t)
	other, _ := identity(t)
	b := written(t, to)
	phrase, err := Identities(nil, "no passphrase of this backup")
	if err != nil {
		t.Fatal(err)
	}
	for name, ids := range map[string][]age.Identity{"none": nil, "another": {other}, "a passphrase": phrase} {
		_, err := Read(bytes.NewReader(b), ids, func(container.Header, io.Reader) error {
			t.Errorf("%s: the image was handed out", name)
			return nil
		})
		if !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h, n, err := CheckContainer(bytes.NewReader(b)); err != nil || n != int64(len(b)) || h.Index != 42 {
		t.Errorf("without a key the container can be checked: %+v, %d, %v", h, n, err)
	}
}

func TestPassphrase(t *testing.T) {
	const phrase = "correct horse battery staple"
	to, err := Recipients(nil, phrase)
	if err != nil {
		t.Fatal(err)
	}
	b := written(t, to)
	good, _ := Identities(nil, phrase)
	bad, _ := Identities(nil, phrase+"x")
	if _, err := Read(bytes.NewReader(b), good, into(new(bytes.Buffer))); err != nil {
		t.Error(err)
	}
	if _, err := Read(bytes.NewReader(b), bad, into(new(bytes.Buffer))); !errors.Is(err, ErrKey) {
		t.Errorf("a wrong passphrase: %v", err)
	}
}

func TestRecipientsAreChecked(t *testing.T) {
	id, _ := identity(t)
	for name, try := range map[string]func() error{
		"private key": func() error { _, err := Recipients([]string{id.String()}, ""); return err },
		"nonsense":    func() error { _, err := Recipients([]string{"age1nonsense"}, ""); return err },
		"empty":       func() error { _, err := Recipients([]string{""}, ""); return err },
		"two in one": func() error {
			_, err := Recipients([]string{id.Recipient().String() + "\n" + id.Recipient().String()}, "")
			return err
		},
		"short passphrase": func() error { _, err := Recipients(nil, "short"); return err },
		"both": func() error {
			_, err := Recipients([]string{id.Recipient().String()}, "correct horse battery")
			return err
		},
		"too many": func() error { _, err := Recipients(make([]string, MaxRecipients+1), ""); return err },
	} {
		err := try()
		if !errors.Is(err, ErrRecipient) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), id.String()) {
			t.Errorf("%s: the error shows the private key", name)
		}
	}
}

// TestNothingAlteredIsRead flips bits all over a backup and cuts it anywhere: whatever is altered, Read fails, and what
// it handed out before is not to be used.
func TestNothingAlteredIsRead(t *testing.T) {
	id, to := identity(t)
	for _, b := range [][]byte{written(t, nil), written(t, to)} {
		read := func(what string, b []byte) {
			t.Helper()
			if _, err := Read(bytes.NewReader(b), []age.Identity{id}, into(new(bytes.Buffer))); err == nil {
				t.Fatal(what)
			}
		}
		for i := range b {
			b[i] ^= 1 << (i % 8)
			read(fmt.Sprintf("a flipped bit of byte %d was not noticed", i), b)
			b[i] ^= 1 << (i % 8)
			read(fmt.Sprintf("cut at %d of %d was not noticed", i, len(b)), b[:i])
		}
	}
}

// TestForgedContainerIsFoundByTheContent puts the content of one backup under the header of another: the container's
// own checks pass, those of the encrypted manifest do not.
func TestForgedContainerIsFoundByTheContent(t *testing.T) {
	id, to := identity(t)
	r, err := container.NewReader(bytes.NewReader(written(t, to)))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	h := r.Header
	h.Created++
	var forged bytes.Buffer
	w, err := container.NewWriter(&forged, h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := CheckContainer(bytes.NewReader(forged.Bytes())); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(bytes.NewReader(forged.Bytes()), []age.Identity{id}, into(new(bytes.Buffer))); !errors.Is(err, ErrContent) {
		t.Errorf("an exchanged header: %v", err)
	}
}

func TestErrorsOfWhoeverTakesTheImageAreTheirs(t *testing.T) {
	full := errors.New("the disk is full")
	_, err := Read(bytes.NewReader(written(t, nil)), nil, func(_ container.Header, r io.Reader) error {
		_, _ = io.CopyN(io.Discard, r, 100)
		return full
	})
	if !errors.Is(err, full) || errors.Is(err, ErrContent) {
		t.Error(err)
	}
}

func TestAWriteThatFailsLeavesNoBackup(t *testing.T) {
	var b bytes.Buffer
	broken := errors.New("gone")
	_, _, err := Write(t.Context(), &b, brokenState{someState(t), broken}, Request{About: someAbout()})
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if _, _, err := CheckContainer(&b); !errors.Is(err, container.ErrDamaged) {
		t.Errorf("what was left: %v", err)
	}
}

type brokenState struct {
	tarState
	err error
}

func (s brokenState) WriteTo(_ context.Context, w io.Writer) error {
	_, err := w.Write(s.tarState[:len(s.tarState)/2])
	return errors.Join(err, s.err)
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if _, _, err := Write(context.Background(), &b, someState(f), Request{About: someAbout()}); err != nil {
		f.Fatal(err)
	}
	r, err := container.NewReader(&b)
	if err != nil {
		f.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	// The container's checksums would keep the fuzzer out, so it makes the content and the container is put around.
	f.Fuzz(func(t *testing.T, content []byte) {
		var b bytes.Buffer
		w, err := container.NewWriter(&b, r.Header)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(content)
		_ = w.Close()
		got, err := Read(&b, nil, func(_ container.Header, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err == nil && got.Manifest == nil {
			t.Fatal("a backup without a manifest was taken")
		}
	})
}
