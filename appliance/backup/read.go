package backup

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/appliance/backup/container"
)

// Backup is what a backup that was read whole says and holds besides its image.
type Backup struct {
	Header   container.Header
	Manifest *Manifest
	Keys     []KeyFile
	Size     int64 // of the container in bytes

	sealed []byte // keys encrypted to the recovery key
}

// OpenKeys opens private keys that are sealed to the recovery key with it, so that Keys has them. Without any identity
// they stay closed and nothing is wrong; one that does not fit is ErrKey.
func (b *Backup) OpenKeys(identities []age.Identity) error {
	if b.sealed == nil || len(identities) == 0 {
		return nil
	}
	plain, err := age.Decrypt(bytes.NewReader(b.sealed), identities...)
	if err != nil {
		return fmt.Errorf("private keys in it: %w", ErrKey)
	}
	body, err := io.ReadAll(io.LimitReader(plain, maxKeyFile*maxKeyFiles))
	if err == nil {
		err = json.Unmarshal(body, &b.Keys)
	}
	if err != nil {
		return fmt.Errorf("%w: its private keys: %w", ErrContent, err)
	}
	if !slices.Equal(keyNames(b.Keys), b.Manifest.Keys) {
		return fmt.Errorf("%w: its private keys are not those that the manifest names", ErrContent)
	}
	return nil
}

func keyNames(keys []KeyFile) []string {
	names := []string{}
	for _, k := range keys {
		names = append(names, k.Name)
	}
	return names
}

// CheckContainer reads a backup to its end and checks what can be checked without a key: that it is, byte for byte,
// what was written.
func CheckContainer(r io.Reader) (container.Header, int64, error) {
	c, err := container.NewReader(r)
	if err != nil {
		return container.Header{}, 0, err
	}
	_, err = io.Copy(io.Discard, c)
	return c.Header, c.Consumed(), err
}

// Read reads a backup. image is given the image as a stream, which it must read to its end and must not trust before
// Read has returned without an error: only then is everything checked.
func Read(r io.Reader, identities []age.Identity, image func(h container.Header, r io.Reader) error) (*Backup, error) {
	c, err := container.NewReader(r)
	if err != nil {
		return nil, err
	}
	if c.Header.Content != container.ContentV1 {
		return nil, fmt.Errorf("%w: its content is %q", container.ErrVersion, c.Header.Content)
	}
	plain := io.Reader(c)
	switch c.Header.Encryption {
	case "":
	case container.EncryptionAge:
		if plain, err = decrypt(c, identities); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: it is encrypted by %q", container.ErrVersion, c.Header.Encryption)
	}
	z, err := zstd.NewReader(plain, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(32<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("decompress backup: %w", err)
	}
	defer z.Close()
	rd := &contentReader{c: c, tr: tar.NewReader(z), out: &Backup{Header: c.Header}, image: image}
	if err := rd.run(); err != nil {
		return nil, rd.blame(err)
	}
	// Whatever follows would be in nobody's digest. Each layer has its own end to check.
	for _, layer := range []io.Reader{z, plain, c} {
		if n, err := io.Copy(io.Discard, layer); err != nil {
			return nil, rd.blame(err)
		} else if n > 0 {
			return nil, fmt.Errorf("%w: there is something behind the manifest", ErrContent)
		}
	}
	rd.out.Size = c.Consumed()
	return rd.out, nil
}

func decrypt(c *container.Reader, identities []age.Identity) (io.Reader, error) {
	if len(identities) == 0 {
		return nil, fmt.Errorf("%w: none was given", ErrKey)
	}
	plain, err := age.Decrypt(c, identities...)
	if err == nil {
		return plain, nil
	}
	if c.Err() != nil { // the layers below, whatever the one above makes of it
		return nil, c.Err()
	}
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrKey
	}
	return nil, fmt.Errorf("%w: %w", ErrKey, err)
}

// contentReader reads the tar of the content.
type contentReader struct {
	c     *container.Reader
	tr    *tar.Reader
	out   *Backup
	image func(h container.Header, r io.Reader) error

	seen  bool
	files []File
	whole File
}

// failure is an error of whoever took the image: nothing that the backup is to blame for.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }

// Unwrap makes errors.Is look at the cause.
func (f *failure) Unwrap() error { return f.err }

// blame says whose fault an error is. The layers above the container know only that something ended early.
func (r *contentReader) blame(err error) error {
	var f *failure
	switch {
	case r.c.Err() != nil:
		return r.c.Err()
	case errors.As(err, &f):
		return f.err
	case errors.Is(err, ErrContent), errors.Is(err, ErrNewer):
		return err
	}
	// Is it the container, which has not been read to its end? Then that is what there is to say.
	if _, e := io.Copy(io.Discard, r.c); e != nil {
		return e
	}
	return fmt.Errorf("%w: %w", ErrContent, err)
}

func (r *contentReader) run() error {
	for {
		th, err := r.tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := r.member(th); err != nil {
			return err
		}
	}
	if r.out.Manifest == nil || !r.seen {
		return fmt.Errorf("%w: it has no image or no manifest", ErrContent)
	}
	return nil
}

func (r *contentReader) member(th *tar.Header) error {
	name, isKey := strings.CutPrefix(th.Name, keysFolder)
	switch {
	case r.out.Manifest != nil:
		return fmt.Errorf("%w: %q follows the manifest", ErrContent, th.Name)
	case th.Typeflag != tar.TypeReg:
		return fmt.Errorf("%w: %q is no file", ErrContent, th.Name)
	case isKey && !r.seen && len(r.out.Keys) < maxKeyFiles && th.Size <= maxKeyFile && !strings.ContainsAny(name, `/\`):
		body, err := io.ReadAll(r.tr)
		r.out.Keys = append(r.out.Keys, KeyFile{Name: name, Body: body})
		return err
	case th.Name == sealedKeys && !r.seen && r.out.sealed == nil && th.Size > 0 && th.Size <= 2*maxKeyFile*maxKeyFiles:
		body, err := io.ReadAll(r.tr)
		r.out.sealed = body
		return err
	case th.Name == imageName && !r.seen && th.Size == r.c.Header.ImageBytes:
		r.seen = true
		return r.readImage()
	case th.Name == manifestName && r.seen && th.Size <= maxManifest:
		return r.readManifest()
	}
	return fmt.Errorf("%w: %q of %d bytes is not expected there", ErrContent, th.Name, th.Size)
}

func (r *contentReader) readImage() error {
	sums := newFileSums(r.c.Header.ImageBytes)
	stream := &source{r: io.TeeReader(r.tr, sums)}
	err := r.image(r.c.Header, stream)
	if err == nil {
		_, err = io.Copy(io.Discard, stream)
	}
	if err != nil {
		sums.abandon(err)
		if stream.err != nil { // the stream broke, and whoever read it only passed that on
			return stream.err
		}
		return &failure{err}
	}
	r.files, r.whole, err = sums.finish(imageName)
	return err
}

// source remembers what the stream ended with.
type source struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (r *contentReader) readManifest() error {
	body, err := io.ReadAll(r.tr)
	if err != nil {
		return err
	}
	m := new(Manifest)
	if err := json.Unmarshal(body, m); err != nil {
		return fmt.Errorf("%w: manifest: %w", ErrContent, err)
	}
	if m.Version != 1 {
		return fmt.Errorf("%w: its manifest is of version %d", ErrNewer, m.Version)
	}
	if m.Header != r.c.HeaderSum() {
		return fmt.Errorf("%w: the header was exchanged", ErrContent)
	}
	h := &r.c.Header
	if m.Index != h.Index || m.Term != h.Term || m.Cluster != h.Cluster || m.Digest != h.Digest {
		return fmt.Errorf("%w: header and manifest differ", ErrContent)
	}
	if m.Image != r.whole || !slices.Equal(m.Files, r.files) {
		return fmt.Errorf("%w: %s", ErrContent, firstDifference(m.Files, r.files))
	}
	if names := keyNames(r.out.Keys); r.out.sealed == nil && !slices.Equal(m.Keys, names) && len(m.Keys)+len(names) > 0 {
		return fmt.Errorf("%w: its keys are %q, the manifest names %q", ErrContent, names, m.Keys)
	}
	r.out.Manifest = m
	return nil
}

func firstDifference(want, got []File) string {
	for i := range want {
		if i >= len(got) {
			return fmt.Sprintf("file %s is missing", want[i].Name)
		}
		if want[i] != got[i] {
			return fmt.Sprintf("file %s (%s) is not %s (%s)", got[i].Name, got[i].SHA256, want[i].Name, want[i].SHA256)
		}
	}
	return "files or the image differ"
}
