package snapshot

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Unpack reads an image from r and writes its parts into the directories named by dirs (name of the part to
// directory), which exist and are empty. It returns once every file was checked against the manifest and, with
// the directories, is on stable storage. Nothing is written of an image whose state has a format above newest. An
// error that is ErrImage speaks of the image, others of this machine.
func Unpack(ctx context.Context, r io.Reader, dirs map[string]string, newest uint32) (Header, error) {
	u := unpacker{ctx: ctx, newest: newest, tr: tar.NewReader(r), dirs: dirs, sums: make(map[string]string), buf: make([]byte, 256<<10)}
	h, err := u.run()
	if err != nil {
		return Header{}, fmt.Errorf("unpack image: %w", err)
	}
	// What follows the end of the archive (nothing, from us) is not looked at, but the stream is consumed.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return Header{}, fmt.Errorf("unpack image: read to the end: %w", err)
	}
	done := make(map[uint64]bool)
	for _, dir := range dirs {
		if err := syncFS(dir, done); err != nil {
			return Header{}, err
		}
	}
	return h, nil
}

type unpacker struct {
	ctx    context.Context
	newest uint32
	tr     *tar.Reader
	dirs   map[string]string
	sums   map[string]string // member to its line of the manifest
	buf    []byte
}

func (u *unpacker) run() (Header, error) {
	h, err := u.header()
	if err != nil {
		return Header{}, err
	}
	for n := 0; ; n++ {
		if err := u.ctx.Err(); err != nil {
			return Header{}, err
		}
		if n > MaxImageFiles {
			return Header{}, fmt.Errorf("more than %d files: %w", MaxImageFiles, ErrImage)
		}
		th, err := u.tr.Next()
		if err != nil {
			return Header{}, damaged("ends without a manifest", err)
		}
		if th.Name == manifestName {
			return h, u.manifest(th.Size)
		}
		if err := u.member(th); err != nil {
			return Header{}, err
		}
	}
}

func damaged(what string, err error) error { return fmt.Errorf("%s: %w: %w", what, ErrImage, err) }

func (u *unpacker) header() (Header, error) {
	th, err := u.tr.Next()
	if err != nil {
		return Header{}, damaged("no header", err)
	}
	if th.Name != headerName || th.Size > maxHeader {
		return Header{}, fmt.Errorf("first member is %q of %d bytes: %w", th.Name, th.Size, ErrImage)
	}
	var h Header
	if err := json.NewDecoder(u.tr).Decode(&h); err != nil {
		return Header{}, damaged("header", err)
	}
	switch {
	case h.Format < 1:
		return Header{}, fmt.Errorf("format %d: %w", h.Format, ErrImage)
	case h.Format > Format:
		return Header{}, fmt.Errorf("%w: %d, this program reads up to %d: %w", ErrNewer, h.Format, Format, ErrImage)
	case h.ClusterFormat > u.newest:
		return Header{}, fmt.Errorf("%w: its state has %d, this program knows up to %d: %w", ErrNewer, h.ClusterFormat, u.newest, ErrImage)
	}
	return h, nil
}

func (u *unpacker) member(th *tar.Header) error {
	part, rest, _ := strings.Cut(th.Name, "/")
	dir, known := u.dirs[part]
	isDir := th.Typeflag == tar.TypeDir
	if !known || !isDir && rest == "" || rest != "" && !filepath.IsLocal(filepath.FromSlash(rest)) {
		return fmt.Errorf("member %q lies outside of the stores: %w", th.Name, ErrImage)
	}
	target := filepath.Join(dir, filepath.FromSlash(rest))
	switch {
	case isDir:
		return os.MkdirAll(target, 0o700)
	case th.Typeflag != tar.TypeReg, sparse(th):
		return fmt.Errorf("member %q is no regular file: %w", th.Name, ErrImage)
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	n, err := io.CopyBuffer(io.MultiWriter(struct{ io.Writer }{f}, sum), u.tr, u.buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = damaged("it is cut off", err)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	u.sums[th.Name] = manifestLine(sum.Sum32(), member{name: th.Name, size: n})
	return nil
}

// sparse reports whether a file has holes, which a few bytes can make of any length: no image of ours has any.
func sparse(th *tar.Header) bool {
	for key := range th.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (u *unpacker) manifest(size int64) error {
	lines := bufio.NewReader(io.LimitReader(u.tr, size))
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			break
		}
		if err != nil {
			return damaged("manifest", err)
		}
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(fields) != 3 || u.sums[fields[2]] != line {
			return fmt.Errorf("manifest does not match the file of line %q: %w", bytes.TrimSpace([]byte(line)), ErrImage)
		}
		delete(u.sums, fields[2])
	}
	for name := range u.sums {
		return fmt.Errorf("file %q is not in the manifest: %w", name, ErrImage)
	}
	if _, err := u.tr.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("members after the manifest: %w", ErrImage)
	}
	return nil
}
