package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/appliance/backup/container"
)

// Request says how a backup is written.
type Request struct {
	About About
	// Recipients can read the backup, and nobody else can. Without any it is not encrypted and has no keys.
	Recipients []age.Recipient
	// Keys go into an encrypted backup as they are, into another encrypted to Recovery, or not at all without it.
	Keys     []KeyFile
	Recovery age.Recipient
	// Progress, when set, is told the bytes of the image that went in so far.
	Progress func(done, total int64)
}

// Write writes a backup of the state to w and returns its manifest and size in bytes. When it fails, what was written
// is no backup: a reader finds it cut off.
func Write(ctx context.Context, w io.Writer, state State, req Request) (_ *Manifest, size int64, err error) {
	m := req.About.Manifest()
	encrypted := len(req.Recipients) > 0
	h := container.Header{
		Cluster: m.Cluster, Node: m.Node, Index: m.Index, Term: m.Term, LogTime: m.LogTime, Format: m.Format,
		Created: m.Created, Program: m.Program, Digest: m.Digest, Content: container.ContentV1, ImageBytes: state.Size(),
		Keys: req.keys(), Damaged: len(m.Damage) > 0,
	}
	if encrypted {
		h.Encryption = container.EncryptionAge
	}
	out, err := container.NewWriter(w, h)
	if err != nil {
		return nil, 0, err
	}
	m.Header = out.HeaderSum()
	plain := io.WriteCloser(nopCloser{out})
	if encrypted {
		if plain, err = age.Encrypt(out, req.Recipients...); err != nil {
			return nil, 0, fmt.Errorf("encrypt backup: %w", err)
		}
	}
	z, err := zstd.NewWriter(plain, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, 0, fmt.Errorf("compress backup: %w", err)
	}
	err = writeContent(ctx, z, state, &req, &m)
	// Only a whole content gets an end.
	if e := z.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = plain.Close()
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		return nil, out.Written(), err
	}
	return &m, out.Written(), nil
}

type nopCloser struct{ io.Writer }

// Close implements io.Closer.
func (nopCloser) Close() error { return nil }

// keys says where the private keys are in the backup.
func (r *Request) keys() string {
	switch {
	case len(r.Keys) == 0:
		return ""
	case len(r.Recipients) > 0:
		return container.KeysInside
	case r.Recovery != nil:
		return container.KeysSealed
	}
	return ""
}

func writeKeys(tw *tar.Writer, req *Request, m *Manifest) error {
	where := req.keys()
	if where == "" {
		return nil
	}
	for _, k := range req.Keys {
		m.Keys = append(m.Keys, k.Name)
		if where == container.KeysInside {
			if err := writeFile(tw, keysFolder+k.Name, k.Body); err != nil {
				return err
			}
		}
	}
	if where == container.KeysInside {
		return nil
	}
	body, err := json.Marshal(req.Keys)
	if err != nil {
		return fmt.Errorf("encode keys: %w", err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, req.Recovery)
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("encrypt keys: %w", err)
	}
	return writeFile(tw, sealedKeys, sealed.Bytes())
}

func writeContent(ctx context.Context, w io.Writer, state State, req *Request, m *Manifest) error {
	tw := tar.NewWriter(w)
	if err := writeKeys(tw, req, m); err != nil {
		return err
	}
	if err := writeImage(ctx, tw, state, req.Progress, m); err != nil {
		return err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if err := writeFile(tw, manifestName, body); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

func memberHeader(name string, size int64) *tar.Header {
	return &tar.Header{Name: name, Size: size, Mode: 0o600, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
}

func writeFile(tw *tar.Writer, name string, body []byte) error {
	err := tw.WriteHeader(memberHeader(name, int64(len(body))))
	if err == nil {
		_, err = tw.Write(body)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func writeImage(ctx context.Context, tw *tar.Writer, state State, progress func(done, total int64), m *Manifest) (err error) {
	if err := tw.WriteHeader(memberHeader(imageName, state.Size())); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	sums := newFileSums(state.Size())
	p := &counting{total: state.Size(), report: progress}
	if err := state.WriteTo(ctx, io.MultiWriter(tw, sums, p)); err != nil {
		sums.abandon(err)
		return fmt.Errorf("write image: %w", err)
	}
	m.Files, m.Image, err = sums.finish(imageName)
	if err == nil && p.done != p.total {
		err = errors.New("image is not as long as announced")
	}
	return err
}

// counting tells how much was written.
type counting struct {
	done, total int64
	report      func(done, total int64)
}

// Write implements io.Writer.
func (c *counting) Write(p []byte) (int, error) {
	c.done += int64(len(p))
	if c.report != nil {
		c.report(c.done, c.total)
	}
	return len(p), nil
}
