package backup

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
)

// fileSums computes the SHA-256 of every file of a tar that is written to it, and of the tar as a whole.
type fileSums struct {
	pipe  *io.PipeWriter
	whole hash.Hash
	size  int64
	limit int64 // of what the files may have together
	done  chan struct{}

	files []File // and err: valid once done is closed
	err   error
}

// newFileSums is for a tar of the given length.
func newFileSums(length int64) *fileSums {
	pr, pw := io.Pipe()
	s := &fileSums{pipe: pw, limit: length, whole: sha256.New(), done: make(chan struct{}), files: []File{}}
	go func() {
		defer close(s.done)
		s.err = s.run(pr)
		if s.err != nil {
			_ = pr.CloseWithError(s.err)
			return
		}
		_, _ = io.Copy(io.Discard, pr) // what pads the end
	}()
	return s
}

func (s *fileSums) run(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		th, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if th.Typeflag != tar.TypeReg {
			continue
		}
		// A file with holes could claim any length.
		if s.limit -= th.Size; s.limit < 0 {
			return fmt.Errorf("file %q is longer than the tar around it", th.Name)
		}
		h := sha256.New()
		n, err := io.Copy(h, tr)
		if err != nil {
			return err
		}
		s.files = append(s.files, File{Name: th.Name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))})
	}
}

// Write implements io.Writer.
func (s *fileSums) Write(p []byte) (int, error) {
	s.whole.Write(p)
	s.size += int64(len(p))
	return s.pipe.Write(p)
}

// finish ends the tar and returns its files and itself under the given name.
func (s *fileSums) finish(name string) (files []File, whole File, err error) {
	_ = s.pipe.Close()
	<-s.done
	if s.err != nil {
		return nil, File{}, fmt.Errorf("image: %w", s.err)
	}
	return s.files, File{Name: name, Size: s.size, SHA256: hex.EncodeToString(s.whole.Sum(nil))}, nil
}

// abandon ends the work without a result.
func (s *fileSums) abandon(err error) {
	_ = s.pipe.CloseWithError(err)
	<-s.done
}
