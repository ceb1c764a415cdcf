package spool

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/triward/triward/agent/wire"
)

// meta is the file that is replaced atomically: the epoch, the ordinal before its first sequence per lane, and
// the ranges given up. On disk: 8 hexadecimal digits of CRC32C, a space, JSON.
type meta struct {
	epoch   wire.Epoch
	Version int                     `json:"version"`
	Epoch   string                  `json:"epoch"`
	Base    [len(wire.Lanes)]uint64 `json:"base"`
	Drops   [len(wire.Lanes)][]span `json:"drops"`
	Lost    [len(wire.Lanes)]uint64 `json:"lost"`
}

const metaName = "epoch"

func newEpoch() wire.Epoch {
	var e wire.Epoch
	rand.Read(e[:]) // never fails, says its documentation
	return e
}

func loadMeta(dir string) (meta, error) {
	var m meta
	b, err := os.ReadFile(filepath.Join(dir, metaName))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "acks")); err == nil {
			return m, fmt.Errorf("%w: the file %s is missing", ErrDamaged, metaName)
		}
		m.epoch = newEpoch()
		return m, m.save(dir)
	}
	if err != nil {
		return m, unreadable("read epoch", err)
	}
	sum, body, ok := bytes.Cut(b, []byte{' '})
	if !ok || string(sum) != fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)) {
		return m, fmt.Errorf("%w: checksum of the file %s", ErrDamaged, metaName)
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("%w: file %s: %w", ErrDamaged, metaName, err)
	}
	if m.Version != 1 {
		return m, fmt.Errorf("spool has format %d, this program knows 1: use the newer agent", m.Version)
	}
	if m.epoch, err = wire.ParseEpoch(m.Epoch); err != nil {
		return m, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return m, nil
}

func (m *meta) save(dir string) error {
	m.Version, m.Epoch = 1, m.epoch.String()
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode epoch: %w", err)
	}
	b := append(fmt.Appendf(nil, "%08x ", crc32.Checksum(body, castagnoli)), body...)
	if err := replaceFile(dir, metaName, b); err != nil {
		return fmt.Errorf("write epoch: %w", err)
	}
	return nil
}

// replaceFile writes a file so that after a crash either the old or the new content is there.
func replaceFile(dir, name string, b []byte) error {
	tmp := filepath.Join(dir, name+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// ackFile holds the acknowledged ordinals in two slots that are written in turn: generation, ordinals, CRC32C.
// If both are unreadable nothing is lost: the oldest batch on disk tells enough, and repeats are recognised.
type ackFile struct {
	f          *os.File
	generation uint64
	ords       [len(wire.Lanes)]uint64
}

const (
	ackSlot = 4096
	ackSize = 8 + 8*len(wire.Lanes) + 4
)

func openAcks(dir string) (*ackFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, "acks"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unreadable("open acknowledgements", err)
	}
	a := &ackFile{f: f}
	for slot := range int64(2) {
		var b [ackSize]byte
		if n, _ := f.ReadAt(b[:], slot*ackSlot); n < ackSize {
			continue
		}
		if crc32.Checksum(b[:ackSize-4], castagnoli) != binary.LittleEndian.Uint32(b[ackSize-4:]) {
			continue
		}
		g := binary.LittleEndian.Uint64(b[:])
		if g <= a.generation {
			continue
		}
		a.generation = g
		for i := range a.ords {
			a.ords[i] = binary.LittleEndian.Uint64(b[8+8*i:])
		}
	}
	return a, nil
}

func (a *ackFile) write(id wire.Lane, ord uint64) error {
	ords := a.ords
	ords[id-1] = ord
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, ackSize), a.generation+1)
	for _, o := range ords {
		b = binary.LittleEndian.AppendUint64(b, o)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := a.f.WriteAt(b, int64((a.generation+1)%2)*ackSlot); err != nil {
		return fmt.Errorf("write acknowledgement: %w", err)
	}
	if err := a.f.Sync(); err != nil {
		return fmt.Errorf("sync acknowledgement: %w", err)
	}
	a.generation++
	a.ords = ords
	return nil
}
