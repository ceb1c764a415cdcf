package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/raftstate/meta"
)

// Version of the form of an archive that this program writes and reads.
const Version = 1

// maxManifest bounds a manifest in bytes.
const maxManifest = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is a sum of meta.HashLine, 32 hexadecimal digits as text.
type Sum struct{ meta.Sum }

// MarshalText implements encoding.TextMarshaler.
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Sum) UnmarshalText(b []byte) error {
	if len(b) != 32 {
		return fmt.Errorf("%w: sum %.40q", ErrDamaged, b)
	}
	hi, err := strconv.ParseUint(string(b[:16]), 16, 64)
	lo, lerr := strconv.ParseUint(string(b[16:]), 16, 64)
	s.Hi, s.Lo = hi, lo
	if err != nil || lerr != nil {
		return fmt.Errorf("%w: sum %.40q", ErrDamaged, b)
	}
	return nil
}

// Total is how many lines there are and the sum of what they are, as the cluster's digests have it.
type Total struct {
	Lines int64 `json:"lines"`
	Sum   Sum   `json:"sum"`
}

func (t *Total) add(o Total) {
	t.Lines += o.Lines
	t.Sum.Sum = t.Sum.Add(o.Sum.Sum)
}

// Totals are the lines and events of a day.
type Totals struct {
	Logs   Total `json:"logs"`
	Events Total `json:"events"`
}

// Lines counts both.
func (t Totals) Lines() int64 { return t.Logs.Lines + t.Events.Lines }

// Plus returns both together.
func (t Totals) Plus(o Totals) Totals {
	t.Logs.add(o.Logs)
	t.Events.add(o.Events)
	return t
}

// Part is an object with lines, in the order of time.
type Part struct {
	Name   string `json:"name"`
	Total         // of its lines
	Raw    int64  `json:"raw"`    // bytes of JSON
	Stored int64  `json:"stored"` // bytes of the object
	CRC    string `json:"crc32c"` // of the object
	MinT   int64  `json:"min_t,string"`
	MaxT   int64  `json:"max_t,string"`
}

// File is what there is of a type and file.
type File struct {
	Type  string `json:"type"`
	File  string `json:"file"`
	Dir   string `json:"dir"` // type/file below the folder of agent and date, escaped
	Total        // of its lines
	Raw   int64  `json:"raw"`
	Parts []Part `json:"parts"`
}

// Agent tells what there is of an agent and a day: logs/{agent}/{date}/day-*.json.
type Agent struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	Tag     string `json:"tag"`
	Date    string `json:"date"`
	Agent   string `json:"agent"`
	Host    string `json:"host,omitempty"`
	From    uint64 `json:"from"`    // entries of the log behind this one
	Through uint64 `json:"through"` // up to this one
	Total          // of all files
	Files   []File `json:"files"`
}

// AgentEntry names an Agent in a Day.
type AgentEntry struct {
	Agent  string `json:"agent"`
	Host   string `json:"host,omitempty"`
	Dir    string `json:"dir"` // below logs/, escaped
	Size   int64  `json:"size"`
	CRC    string `json:"crc32c"` // of the manifest as it is stored
	Files  int    `json:"files"`
	Total         // of all files
	Raw    int64  `json:"raw"`    // bytes of all lines as JSON
	Stored int64  `json:"stored"` // bytes of all parts
}

// Day tells what there is of a day: days/{date}-*.json, the last that is written.
type Day struct {
	Version int          `json:"version"`
	Cluster string       `json:"cluster"`
	Tag     string       `json:"tag"`
	Date    string       `json:"date"`
	From    uint64       `json:"from"`
	Through uint64       `json:"through"`
	Node    string       `json:"node"` // that wrote it
	Program string       `json:"program"`
	Written int64        `json:"written"` // by that node's clock, milliseconds since 1970
	Totals  Totals       `json:"totals"`  // of these entries
	Upto    Totals       `json:"upto"`    // of the chain that ends with it
	Agents  []AgentEntry `json:"agents"`
}

// Name of a Day within days/, also of those that are only listed.
type Name struct {
	Date, Tag     string
	From, Through uint64
}

func (n Name) file() string { return n.Date + "-" + n.mark() + ".json" }

// mark is in the names of all that is written together.
func (n Name) mark() string { return fmt.Sprintf("%s-%d-%d", n.Tag, n.From, n.Through) }

func parseName(s string) (n Name, ok bool) {
	s, ok = strings.CutSuffix(s, ".json")
	if !ok || len(s) < 12 || s[10] != '-' {
		return n, false
	}
	if _, err := ParseDate(s[:10]); err != nil {
		return n, false
	}
	n.Date = s[:10]
	pieces := strings.Split(s[11:], "-")
	if len(pieces) != 3 || len(pieces[0]) != tagLen {
		return n, false
	}
	var err, terr error
	n.Tag = pieces[0]
	n.From, err = strconv.ParseUint(pieces[1], 10, 64)
	n.Through, terr = strconv.ParseUint(pieces[2], 10, 64)
	return n, err == nil && terr == nil && n.From < n.Through && n.file() == s+".json"
}

const (
	folderDays = "days"
	folderLogs = "logs"
)

// manifest is what surrounds a manifest where it is stored.
type manifest struct {
	CRC  string          `json:"crc32c"` // of the bytes of content
	Body json.RawMessage `json:"content"`
}

func checksum(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }

// seal encodes a manifest.
func seal(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	out := append([]byte(`{"crc32c":"`+checksum(body)+`","content":`), body...)
	out = append(out, "}\n"...)
	if len(out) > maxManifest {
		return nil, fmt.Errorf("%w: a manifest has %d bytes, at most %d are possible", ErrInvalid, len(out), maxManifest)
	}
	return out, nil
}

func unseal(raw []byte, v any) error {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
	}
	if got := checksum(m.Body); got != m.CRC {
		return fmt.Errorf("%w: manifest has the checksum %s, it says %.20q", ErrDamaged, got, m.CRC)
	}
	if err := json.Unmarshal(m.Body, v); err != nil {
		return fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
	}
	return nil
}

// readAll reads a small object whole.
func readAll(ctx context.Context, from target.Target, name string, most int64) ([]byte, error) {
	in, size, err := from.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	if size > most {
		return nil, errors.Join(fmt.Errorf("%w: %s in %s has %d bytes, at most %d are read", ErrDamaged, name, from, size, most), in.Close())
	}
	var buf bytes.Buffer
	buf.Grow(int(size) + bytes.MinRead)
	n, err := io.Copy(&buf, io.LimitReader(in, most+1))
	cerr := in.Close()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read %s in %s: %w", name, from, ctx.Err())
	}
	if err = errors.Join(err, cerr); err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", name, from, err)
	}
	if n != size {
		return nil, fmt.Errorf("%w: %s in %s has %d bytes, %d were read", ErrDamaged, name, from, size, n)
	}
	return buf.Bytes(), nil
}
