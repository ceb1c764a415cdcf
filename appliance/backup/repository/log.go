package repository

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
)

// Entry is a committed entry of the log.
type Entry struct {
	Index, Term uint64
	Type        uint8 // of raft
	Stamp       int64 // log time in milliseconds since 1970; 0 for entries of raft's own
	Data        []byte
}

// The content of a segment is, encrypted by age when the repository is, zstd of: SHA-256 of the container's header, then
// each entry as index uint64, term uint64, type byte, length uint32, data and CRC32C of these, little endian.
const (
	entryHead = 8 + 8 + 1 + 4
	maxEntry  = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SegmentAbout says of whom a segment is.
type SegmentAbout struct {
	Node, Program string
	Format        uint32
	Created       int64 // milliseconds since 1970
}

// Segments lists the archived segments of the log in order of their first entry.
func (r *Repository) Segments(ctx context.Context) ([]Segment, error) {
	var out []Segment
	err := r.store.List(ctx, prefixLog, func(i target.Item) error {
		if s, ok := parseSegment(i.Name, i.Size); ok {
			out = append(out, s)
		}
		return nil
	})
	return out, err
}

// WriteSegment stores entries, which follow each other, durably, and reads back what it stored.
func (r *Repository) WriteSegment(ctx context.Context, about SegmentAbout, entries []Entry) (Segment, error) {
	if len(entries) == 0 {
		return Segment{}, errors.New("archive the log: no entries")
	}
	first, last := &entries[0], &entries[len(entries)-1]
	h := container.Header{
		Cluster: r.about.Cluster, Node: about.Node, First: first.Index, Index: last.Index, Term: last.Term, Format: about.Format,
		Created: about.Created, Program: about.Program, Encryption: r.about.Encryption, Content: container.ContentLogV1,
	}
	for i := range entries {
		h.LogTime = max(h.LogTime, entries[i].Stamp)
		if entries[i].Index != first.Index+uint64(i) {
			return Segment{}, fmt.Errorf("archive the log: entry %d follows %d entries from %d on", entries[i].Index, i, first.Index)
		}
	}
	to, err := r.packRecipients()
	if err != nil {
		return Segment{}, err
	}
	name := segmentName(first.Index, last.Index, newID())
	n, err := r.store.Put(ctx, name, 0, func(w io.Writer) error { return writeSegment(w, h, to, entries) })
	if err != nil {
		return Segment{}, fmt.Errorf("archive the log in %s: %w", r.store, err)
	}
	seg := Segment{Name: name, First: first.Index, Last: last.Index, Size: n}
	if _, err := r.CheckSegment(ctx, seg); err != nil {
		err = fmt.Errorf("archive the log in %s: read back: %w", r.store, err)
		if errors.Is(err, container.ErrDamaged) || errors.Is(err, backup.ErrContent) {
			err = errors.Join(err, r.store.Remove(ctx, name)) // nobody should come upon it
		}
		return Segment{}, err
	}
	return seg, nil
}

func writeSegment(w io.Writer, h container.Header, to []age.Recipient, entries []Entry) error {
	out, err := container.NewWriter(w, h)
	if err != nil {
		return err
	}
	sum, err := hex.DecodeString(out.HeaderSum())
	if err != nil {
		return err
	}
	plain := io.WriteCloser(nopCloser{out})
	if len(to) > 0 {
		if plain, err = age.Encrypt(out, to...); err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
	}
	z, err := zstd.NewWriter(plain, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	_, err = z.Write(sum)
	var buf []byte
	for i := range entries {
		if err != nil {
			break
		}
		buf = appendEntry(buf[:0], &entries[i])
		_, err = z.Write(buf)
	}
	if err != nil {
		return errors.Join(err, z.Close())
	}
	// Only a whole content gets an end.
	for _, c := range []io.Closer{z, plain, out} {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

type nopCloser struct{ io.Writer }

// Close implements io.Closer.
func (nopCloser) Close() error { return nil }

func appendEntry(dst []byte, e *Entry) []byte {
	at := len(dst)
	dst = binary.LittleEndian.AppendUint64(dst, e.Index)
	dst = binary.LittleEndian.AppendUint64(dst, e.Term)
	dst = append(dst, e.Type)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(e.Data)))
	dst = append(dst, e.Data...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
}

// readEntry reads one; io.EOF at the end. The data is the caller's.
func readEntry(r io.Reader) (Entry, error) {
	var head [entryHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: an entry ends early", backup.ErrContent)
		}
		return Entry{}, err
	}
	size := binary.LittleEndian.Uint32(head[17:])
	if size > maxEntry {
		return Entry{}, fmt.Errorf("%w: an entry claims %d bytes", backup.ErrContent, size)
	}
	var body bytes.Buffer // grows with what is there, not with what is claimed
	if n, err := io.Copy(&body, io.LimitReader(r, int64(size)+4)); err != nil || n != int64(size)+4 {
		return Entry{}, errors.Join(fmt.Errorf("%w: an entry ends early", backup.ErrContent), err)
	}
	data, crc := body.Bytes()[:size], binary.LittleEndian.Uint32(body.Bytes()[size:])
	if crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, data) != crc {
		return Entry{}, fmt.Errorf("%w: the checksum of an entry does not match", backup.ErrContent)
	}
	return Entry{
		Index: binary.LittleEndian.Uint64(head[:]), Term: binary.LittleEndian.Uint64(head[8:]), Type: head[16], Data: data,
	}, nil
}

// ReadSegment calls fn with the entries of a segment in order. An entry may have been handed out before a segment is
// found to be damaged behind it: each is checked by itself.
func (r *Repository) ReadSegment(ctx context.Context, s Segment, fn func(Entry) error) error {
	_, err := r.eachEntry(ctx, s, fn)
	return err
}

func (r *Repository) eachEntry(ctx context.Context, s Segment, fn func(Entry) error) (h container.Header, err error) {
	in, _, err := r.store.Open(ctx, s.Name)
	if errors.Is(err, target.ErrAbsent) {
		return h, fmt.Errorf("%w: %s in %s", ErrMissing, s.Name, r.store)
	}
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if h, err = r.readSegment(in, s, fn); err != nil {
		return h, fmt.Errorf("%s: %w", s.Name, err)
	}
	return h, nil
}

func (r *Repository) readSegment(in io.Reader, s Segment, fn func(Entry) error) (container.Header, error) {
	c, err := container.NewReader(in)
	if err != nil {
		return container.Header{}, err
	}
	if err := r.fits(&c.Header, s); err != nil {
		return c.Header, err
	}
	return c.Header, r.readContent(c, s, fn)
}

// fits holds the header of a segment against its name and repository.
func (r *Repository) fits(h *container.Header, s Segment) error {
	switch {
	case h.Content != container.ContentLogV1:
		return fmt.Errorf("%w: its content is %.40q", container.ErrVersion, h.Content)
	case h.Encryption != r.about.Encryption || h.Cluster != r.about.Cluster:
		return fmt.Errorf("%w: it is not of this repository", backup.ErrContent)
	case h.First != s.First || h.Index != s.Last:
		return fmt.Errorf("%w: it holds the entries %d to %d", backup.ErrContent, h.First, h.Index)
	}
	return nil
}

func (r *Repository) readContent(c *container.Reader, s Segment, fn func(Entry) error) (err error) {
	plain := io.Reader(c)
	if r.Encrypted() {
		if len(r.identities) == 0 {
			return fmt.Errorf("%w: none was given", backup.ErrKey)
		}
		if plain, err = age.Decrypt(c, r.identities...); err != nil {
			if c.Err() != nil {
				return c.Err()
			}
			return whyClosed(err)
		}
	}
	err = readEntries(plain, c.HeaderSum(), s, fn)
	var own *failure
	switch {
	case errors.As(err, &own):
		return own.err
	case c.Err() != nil:
		return c.Err()
	case err != nil && !errors.Is(err, backup.ErrContent):
		return fmt.Errorf("%w: %w", backup.ErrContent, err)
	case err != nil:
		return err
	}
	if n, err := io.Copy(io.Discard, c); err != nil || n > 0 {
		return errors.Join(fmt.Errorf("%w: there is something behind its entries", backup.ErrContent), err)
	}
	return nil
}

// failure is an error of whoever takes entries.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }

// Unwrap makes errors.Is look at the cause.
func (f *failure) Unwrap() error { return f.err }

func readEntries(r io.Reader, header string, s Segment, fn func(Entry) error) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(32<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer z.Close()
	sum := make([]byte, 32)
	if _, err := io.ReadFull(z, sum); err != nil {
		return err
	}
	if hex.EncodeToString(sum) != header {
		return fmt.Errorf("%w: the header was exchanged", backup.ErrContent)
	}
	for next := s.First; ; next++ {
		e, err := readEntry(z)
		if errors.Is(err, io.EOF) && next == s.Last+1 {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it ends before entry %d", backup.ErrContent, next)
		}
		if err != nil {
			return err
		}
		if e.Index != next {
			return fmt.Errorf("%w: entry %d stands where %d should", backup.ErrContent, e.Index, next)
		}
		if err := fn(e); err != nil {
			return &failure{err}
		}
	}
}

// ErrStop ends Replay early without an error.
var ErrStop = errors.New("stop")

// Replay calls fn with the archived entries behind the index from, each once, in order: up to the entry through, which
// must be there, or, when that is 0, up to where the archive goes without a gap. fn ends it with ErrStop. Where a segment
// is damaged that another one covers, that one is read. Entries of another history are ErrHistory.
func (r *Repository) Replay(ctx context.Context, from, through uint64, fn func(Entry) error) error {
	segments, err := r.Segments(ctx)
	if err != nil {
		return err
	}
	have, term := from, uint64(0)
	var damaged error
	for through == 0 || have < through {
		s, ok := following(segments, have)
		if !ok {
			break
		}
		var own error // of fn, or what it was not even asked about
		err := r.ReadSegment(ctx, s, func(e Entry) error {
			switch {
			case term > 0 && (e.Index == have && e.Term != term || e.Index > have && e.Term < term):
				own = otherHistory(e.Index, e.Term, have, term)
				return own
			case e.Index <= have || through > 0 && e.Index > through:
				return nil
			}
			have, term = e.Index, e.Term
			own = fn(e)
			return own
		})
		switch {
		case errors.Is(own, ErrStop):
			return nil
		case own != nil || ctx.Err() != nil || errors.Is(err, backup.ErrKey):
			return err
		case err != nil:
			damaged = err
			segments = slices.DeleteFunc(segments, func(o Segment) bool { return o.Name == s.Name })
		default:
			damaged = nil // another one had it
		}
	}
	if damaged != nil {
		return damaged
	}
	if through > have {
		return fmt.Errorf("%w: %d to %d in %s", ErrGap, have+1, firstBehind(segments, have, through), r.store)
	}
	return nil
}

// following returns the segment that goes on furthest from behind an entry.
func following(segments []Segment, have uint64) (best Segment, ok bool) {
	for _, s := range segments {
		if s.First <= have+1 && s.Last > have && s.Last > best.Last {
			best, ok = s, true
		}
	}
	return best, ok
}

// firstBehind returns the last entry that is missing.
func firstBehind(segments []Segment, have, through uint64) uint64 {
	end := through
	for _, s := range segments {
		if s.First > have+1 {
			end = min(end, s.First-1)
		}
	}
	return end
}

// Coverage says how far a restore can go.
type Coverage struct {
	From  uint64 `json:"from"`  // the index of a save
	Until uint64 `json:"until"` // the last entry archived behind it without a gap
}

// Covered joins saves and segments to the spans whose entries can be restored one by one, in order.
func Covered(saves []Save, segments []Segment) []Coverage {
	var out []Coverage
	segments = slices.Clone(segments)
	slices.SortFunc(segments, func(a, b Segment) int {
		if a.First != b.First {
			return compare(a.First, b.First)
		}
		return compare(a.Last, b.Last)
	})
	place := 0
	for _, s := range saves {
		if n := len(out); n > 0 && s.Index <= out[n-1].Until {
			continue
		}
		c := Coverage{s.Index, s.Index}
		for ; place < len(segments) && segments[place].First <= c.Until+1; place++ {
			c.Until = max(c.Until, segments[place].Last)
		}
		out = append(out, c)
	}
	return out
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
