package snapshot

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Format is the version of images that this build writes, and the newest that it accepts.
const Format = 1

// MaxImageFiles bounds the files of an image.
const MaxImageFiles = 1 << 20

const (
	headerName   = "IMAGE"
	manifestName = "MANIFEST"
	tarBlock     = 512
	tarTrailer   = 2 * tarBlock
	maxHeader    = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors of images.
var (
	// ErrImage says that an image is damaged, incomplete or of a newer format.
	ErrImage = errors.New("image is not usable")
	// ErrNewer says that an image is of a format, its own or that of its state, that this program does not know. It
	// comes together with ErrImage.
	ErrNewer = errors.New("image is of a newer format")
)

// Header is the first member of an image.
type Header struct {
	Format int `json:"format"`
	// ClusterFormat is the format of the state in the image; absent: 1.
	ClusterFormat uint32 `json:"cluster_format,omitempty"`

	Index uint64 `json:"index"` // the state is as of this entry of the log
	Term  uint64 `json:"term"`
	Node  string `json:"node"` // that cut it
}

// Part is a directory that goes into an image under a name (its kind).
type Part struct{ Name, Dir string }

type member struct {
	name string // in the image
	file string // on disk; "" for a directory
	size int64
}

// Image is a state ready to be streamed any number of times: a tar of header, files and a manifest with the CRC
// of each. The files must not change while it is used.
type Image struct {
	Header  Header
	members []member
	header  []byte
	size    int64
	open    func(m *member) (io.ReadCloser, error)
}

// Member is a file of an image, or a folder when its name ends with a slash.
type Member struct {
	Name string // in the image
	Path string // on disk; "" for a folder and for a member that comes from elsewhere
	Size int64  // bytes
}

// Members lists what an image holds, in its order. The files are there as long as the image is.
func (img *Image) Members() []Member {
	out := make([]Member, len(img.members))
	for i := range img.members {
		m := &img.members[i]
		out[i] = Member{m.name, m.file, m.size}
	}
	return out
}

// Assemble makes an image of members that come from elsewhere: open returns what the file of that place in the list
// holds, in the order of the list, and is asked anew for each stream. What comes out is, byte for byte, the stream of the
// image whose header and members these are.
func Assemble(h Header, members []Member, open func(i int) (io.ReadCloser, error)) (*Image, error) {
	img := &Image{Header: h}
	var err error
	if img.header, err = json.Marshal(h); err != nil {
		return nil, fmt.Errorf("encode image header: %w", err)
	}
	if len(members) > MaxImageFiles {
		return nil, fmt.Errorf("image has %d files, at most %d are possible: %w", len(members), MaxImageFiles, ErrImage)
	}
	place := make(map[string]int, len(members))
	for i, m := range members {
		place[m.Name] = i
		one := member{name: m.Name, size: m.Size}
		if !strings.HasSuffix(m.Name, "/") {
			one.file = m.Name
		}
		img.members = append(img.members, one)
	}
	img.open = func(m *member) (io.ReadCloser, error) { return open(place[m.name]) }
	return img, img.measure()
}

// NewImage lists the files of the parts and computes the size of the stream.
func NewImage(h Header, parts []Part) (*Image, error) {
	h.Format = Format
	img := &Image{Header: h, open: func(m *member) (io.ReadCloser, error) { return os.Open(m.file) }}
	var err error
	if img.header, err = json.Marshal(h); err != nil {
		return nil, fmt.Errorf("encode image header: %w", err)
	}
	for _, p := range parts {
		if err := img.walk(p); err != nil {
			return nil, fmt.Errorf("list image of %s: %w", p.Name, err)
		}
	}
	sort.Slice(img.members, func(i, j int) bool { return img.members[i].name < img.members[j].name })
	if len(img.members) > MaxImageFiles {
		return nil, fmt.Errorf("image has %d files, at most %d are possible", len(img.members), MaxImageFiles)
	}
	return img, img.measure()
}

func (img *Image) walk(p Part) error {
	return filepath.WalkDir(p.Dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(p.Dir, file)
		if err != nil {
			return err
		}
		name := path.Join(p.Name, filepath.ToSlash(rel))
		if d.IsDir() {
			img.members = append(img.members, member{name: name + "/"})
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", file)
		}
		img.members = append(img.members, member{name: name, file: file, size: info.Size()})
		return nil
	})
}

func manifestLine(sum uint32, m member) string {
	return fmt.Sprintf("%08x %020d %s\n", sum, m.size, m.name)
}

func (img *Image) measure() error {
	manifest := int64(0)
	img.size = tarTrailer
	for _, m := range img.members {
		n, err := headerSize(m.name, m.size)
		if err != nil {
			return err
		}
		img.size += n + padded(m.size)
		if m.file != "" {
			manifest += int64(len(manifestLine(0, m)))
		}
	}
	for name, size := range map[string]int64{headerName: int64(len(img.header)), manifestName: manifest} {
		n, err := headerSize(name, size)
		if err != nil {
			return err
		}
		img.size += n + padded(size)
	}
	return nil
}

func padded(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }

func tarHeader(name string, size int64) *tar.Header {
	h := &tar.Header{Name: name, Size: size, Mode: 0o600, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
	if strings.HasSuffix(name, "/") {
		h.Typeflag, h.Mode = tar.TypeDir, 0o700
	}
	return h
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func headerSize(name string, size int64) (int64, error) {
	var c counter
	if err := tar.NewWriter(&c).WriteHeader(tarHeader(name, size)); err != nil {
		return 0, fmt.Errorf("image member %s: %w", name, err)
	}
	return int64(c), nil
}

// Size returns the exact length of the stream in bytes.
func (img *Image) Size() int64 { return img.size }

// WriteTo streams the image.
func (img *Image) WriteTo(ctx context.Context, w io.Writer) error {
	var c counter
	tw := tar.NewWriter(io.MultiWriter(w, &c))
	if err := writeMember(tw, headerName, img.header); err != nil {
		return err
	}
	var manifest strings.Builder
	buf := make([]byte, 256<<10)
	for _, m := range img.members {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := tw.WriteHeader(tarHeader(m.name, m.size)); err != nil {
			return fmt.Errorf("stream image: %w", err)
		}
		if m.file == "" {
			continue
		}
		sum, err := img.copyFile(tw, &m, buf)
		if err != nil {
			return fmt.Errorf("stream image: %w", err)
		}
		manifest.WriteString(manifestLine(sum, m))
	}
	if err := writeMember(tw, manifestName, []byte(manifest.String())); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("stream image: %w", err)
	}
	if int64(c) != img.size {
		return fmt.Errorf("stream image: %d bytes written, %d announced", int64(c), img.size)
	}
	return nil
}

func writeMember(tw *tar.Writer, name string, b []byte) error {
	err := tw.WriteHeader(tarHeader(name, int64(len(b))))
	if err == nil {
		_, err = tw.Write(b)
	}
	if err != nil {
		return fmt.Errorf("stream image %s: %w", name, err)
	}
	return nil
}

func (img *Image) copyFile(w io.Writer, m *member, buf []byte) (uint32, error) {
	f, err := img.open(m)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sum := crc32.New(castagnoli)
	// Hide the file's own copying methods, so that buf bounds the pieces.
	n, err := io.CopyBuffer(io.MultiWriter(w, sum), struct{ io.Reader }{io.LimitReader(f, m.size)}, buf)
	if err != nil {
		return 0, err
	}
	if n != m.size {
		return 0, fmt.Errorf("%s has %d bytes, %d were announced", m.file, n, m.size)
	}
	return sum.Sum32(), nil
}

// Open returns the stream as a reader. Close ends the work of it.
func (img *Image) Open() io.ReadCloser {
	ctx, cancel := context.WithCancel(context.Background())
	pr, pw := io.Pipe()
	s := &stream{PipeReader: pr, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		pw.CloseWithError(img.WriteTo(ctx, pw))
	}()
	return s
}

type stream struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

func (s *stream) Close() error {
	s.cancel()
	err := s.PipeReader.Close()
	<-s.done
	return err
}
