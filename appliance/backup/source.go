package backup

import (
	"context"
	"errors"
	"io"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup/container"
)

// Source is a backup that can be read, whatever its form.
type Source interface {
	// Read is as the function Read: what image is given must not be trusted before Read has returned without an error.
	Read(ctx context.Context, identities []age.Identity, image func(h container.Header, r io.Reader) error) (*Backup, error)
}

// Stream is a backup of one file. It can be read once.
func Stream(r io.Reader) Source { return stream{r} }

type stream struct{ r io.Reader }

// Read implements Source.
func (s stream) Read(_ context.Context, ids []age.Identity, image func(container.Header, io.Reader) error) (*Backup, error) {
	return Read(s.r, ids, image)
}

// Assembled is a backup that was read from another form than that of a file. sealed are private keys that are closed:
// those of an encrypted backup as encrypted as it is, those of another to the recovery key.
func Assembled(h container.Header, m *Manifest, sealed []byte, size int64) *Backup {
	return &Backup{Header: h, Manifest: m, Size: size, sealed: sealed}
}

// HandOver gives image the stream, reads what that leaves of it and says whose fault an error is: of the stream, when it
// broke, or of whoever took the image.
func HandOver(h container.Header, r io.Reader, image func(h container.Header, r io.Reader) error) error {
	s := &source{r: r}
	err := image(h, s)
	if err == nil {
		_, err = io.Copy(io.Discard, s)
	}
	if err != nil && s.err != nil {
		return errors.Join(s.err)
	}
	return err
}
