package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/meta"
)

// Bounds of what a reader takes, whatever the archive says.
const (
	maxWindow  = 8 << 20
	maxPartRaw = 128 << 20 // a part of one line may be larger than partBytes
	maxChain   = 10_000
)

// errStop ends a listing early.
var errStop = errors.New("stop")

// Names lists the days of all clusters in a place, in the order of dates, tags and entries. prefix bounds it to dates that
// begin so.
func Names(ctx context.Context, from target.Target, prefix string) (out []Name, err error) {
	err = from.Below(folderDays).List(ctx, prefix, func(i target.Item) error {
		if n, ok := parseName(i.Name); ok {
			out = append(out, n)
		}
		if len(out) > 40*maxChain {
			return fmt.Errorf("%w: there are more than %d manifests of days in %s", ErrInvalid, len(out), from)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b Name) int {
		return cmp.Or(strings.Compare(a.Date, b.Date), strings.Compare(a.Tag, b.Tag), cmp.Compare(a.From, b.From), cmp.Compare(b.Through, a.Through))
	})
	return out, nil
}

// Chain picks of the names of one date and tag those that follow each other from the first entry on. A day may have been
// archived twice at once as of different entries; then the longer one counts.
func Chain(names []Name, date, tag string) (chain []Name) {
	at := uint64(0)
	for {
		next, ok := Name{}, false
		for _, n := range names {
			if n.Date == date && n.Tag == tag && n.From == at && (!ok || n.Through > next.Through) {
				next, ok = n, true
			}
		}
		if !ok || len(chain) >= maxChain {
			return chain
		}
		chain, at = append(chain, next), next.Through
	}
}

// ReadDay reads what there is of a day.
func ReadDay(ctx context.Context, from target.Target, n Name) (*Day, error) {
	at := from.Below(folderDays)
	raw, err := readAll(ctx, at, n.file(), maxManifest)
	if err != nil {
		return nil, absent(err)
	}
	var d Day
	if err := unseal(raw, &d); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", n.file(), at, err)
	}
	if d.Version > Version {
		return nil, fmt.Errorf("%w: %s in %s has version %d, this program knows %d: use a newer one", ErrInvalid, n.file(), at, d.Version, Version)
	}
	if (Name{d.Date, d.Tag, d.From, d.Through}) != n {
		return nil, fmt.Errorf("%w: %s in %s is about %s", ErrDamaged, n.file(), at, d.Date)
	}
	return &d, nil
}

// absent makes an error about what a target lacks one of this package.
func absent(err error) error {
	if errors.Is(err, target.ErrAbsent) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// ReadAgent reads what there is of an agent and day.
func ReadAgent(ctx context.Context, from target.Target, d *Day, agent string) (*Agent, error) {
	i := slices.IndexFunc(d.Agents, func(e AgentEntry) bool { return e.Agent == agent })
	if i < 0 {
		return nil, fmt.Errorf("%w: nothing of agent %.80q on %s", ErrNotFound, agent, d.Date)
	}
	e := &d.Agents[i]
	if e.Dir != Escape(agent) {
		return nil, fmt.Errorf("%w: agent %.80q in another folder", ErrDamaged, agent)
	}
	at, name := from.Below(folderLogs).Below(e.Dir).Below(d.Date), "day-"+(Name{d.Date, d.Tag, d.From, d.Through}).mark()+".json"
	raw, err := readAll(ctx, at, name, maxManifest)
	if err != nil {
		return nil, absent(err)
	}
	if got := checksum(raw); got != e.CRC {
		return nil, fmt.Errorf("%w: %s in %s has the checksum %s, it was written with %s", ErrDamaged, name, at, got, e.CRC)
	}
	var m Agent
	if err := unseal(raw, &m); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", name, at, err)
	}
	for i := range m.Files {
		if f := &m.Files[i]; f.Dir != Escape(f.Type)+"/"+Escape(f.File) {
			return nil, fmt.Errorf("%w: %s in %s names the folder %.200q", ErrDamaged, name, at, f.Dir)
		}
	}
	return &m, nil
}

// unpack decompresses what must become raw bytes long.
func unpack(packed []byte, raw int64) ([]byte, error) {
	if raw < 0 || raw > maxPartRaw {
		return nil, fmt.Errorf("%w: %d bytes of lines, at most %d are read", ErrDamaged, raw, maxPartRaw)
	}
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	defer z.Close()
	out := make([]byte, 0, min(raw, 64*int64(len(packed)))+1)
	buf := bytes.NewBuffer(out)
	n, err := io.Copy(buf, io.LimitReader(z, raw+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if n != raw {
		return nil, fmt.Errorf("%w: it unfolds to another length than %d bytes", ErrDamaged, raw)
	}
	return buf.Bytes(), nil
}

// ReadPart reads a part whole, compares it with what the manifest says, and then calls fn with each line. The row's text and
// fields belong to the caller, its labels must not be changed.
func ReadPart(ctx context.Context, from target.Target, m *Agent, f *File, p *Part, fn func(*logstore.Row) error) error {
	at := from.Below(folderLogs).Below(Escape(m.Agent)).Below(m.Date).Below(Escape(f.Type)).Below(Escape(f.File))
	fail := func(err error) error { return fmt.Errorf("%s in %s: %w", p.Name, at, err) }
	if p.Stored < 0 || p.Stored > maxPartRaw+maxPartRaw/8 {
		return fail(fmt.Errorf("%w: %d bytes", ErrDamaged, p.Stored))
	}
	packed, err := readAll(ctx, at, p.Name, p.Stored)
	if err != nil {
		return absent(err)
	}
	if got := checksum(packed); int64(len(packed)) != p.Stored || got != p.CRC {
		return fail(fmt.Errorf("%w: %d bytes with checksum %s, %d with %s were written", ErrDamaged, len(packed), got, p.Stored, p.CRC))
	}
	raw, err := unpack(packed, p.Raw)
	if err != nil {
		return fail(err)
	}
	var got Total
	if err := eachLine(raw, func(r *logstore.Row, sum meta.Sum) error {
		got.add(Total{1, Sum{sum}})
		return nil
	}); err != nil {
		return fail(err)
	}
	if got != p.Total {
		return fail(fmt.Errorf("%w: %d lines with sum %s, %d with %s were written", ErrDamaged, got.Lines, got.Sum, p.Lines, p.Sum))
	}
	return eachLine(raw, func(r *logstore.Row, _ meta.Sum) error { return fn(r) })
}

func eachLine(raw []byte, fn func(*logstore.Row, meta.Sum) error) error {
	var in lineReader
	var sums hasher
	for len(raw) > 0 {
		line, rest, ok := bytes.Cut(raw, []byte{'\n'})
		if !ok {
			return fmt.Errorf("%w: the last line has no end", ErrDamaged)
		}
		raw = rest
		var r logstore.Row
		if err := in.read(line, &r); err != nil {
			return err
		}
		if err := fn(&r, sums.sum(&r)); err != nil {
			return err
		}
	}
	return nil
}
