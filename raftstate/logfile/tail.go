package logfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"time"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// raft-wal 0.4.2 does not recover a newest segment that was being sealed when the process or the machine ended. The
// index, which makes a segment sealed, goes into it with the last entries; that it is sealed is noted beside it only
// afterwards. In between, and also when the write of the index was torn, the segment is opened for appending and takes
// nothing ever after. And what a torn write left behind the last whole commit stays there, where it may be taken for
// more when the segment is read the next time. So the newest segment is put in order before raft-wal opens it.

// Frames of a segment: 8 bytes of head (type, 3 bytes reserved, length or checksum) and content, padded to 8 bytes. A
// commit frame has the crc32c of everything since the one before.
const (
	segmentHead = 32
	frameHead   = 8

	frameEntry  = 1
	frameIndex  = 2
	frameCommit = 3
)

// tailState is how far a segment was written.
type tailState struct {
	end     int64  // behind the last whole commit; 0: there is none
	entries uint64 // up to there
	index   uint64 // where the index begins that the last whole commit holds; 0: the segment is not sealed
}

// commitPoint is a commit frame and what came before it.
type commitPoint struct {
	from, at       int64 // of what it sums up, and its own
	crc            uint32
	entries, index uint64
}

// readTail finds the last whole commit, as raft-wal does: of the last commit frame the sum is checked unless entries
// follow it, since then it was synced before they were written.
func readTail(f io.ReaderAt) (tailState, error) {
	var head [frameHead]byte
	var last, before *commitPoint
	var entries, index uint64
	for at := int64(segmentHead); ; {
		if n, err := f.ReadAt(head[:], at); n < frameHead {
			if err != nil && !errors.Is(err, io.EOF) {
				return tailState{}, fmt.Errorf("read frame at %d: %w", at, err)
			}
			break
		}
		size := int64(binary.LittleEndian.Uint32(head[4:]))
		kind := head[0]
		if kind == 0 || kind > frameCommit {
			break
		}
		switch kind {
		case frameEntry:
			entries++
		case frameIndex:
			index = uint64(at) + frameHead
		case frameCommit:
			before, last = last, &commitPoint{at: at, crc: uint32(size), entries: entries, index: index}
			if before != nil {
				last.from = before.at + frameHead
			}
			size = 0
		}
		at += frameHead + (size+frameHead-1)/frameHead*frameHead
	}
	if last == nil {
		return tailState{}, nil
	}
	if last.entries == entries {
		batch := make([]byte, last.at-last.from)
		if _, err := f.ReadAt(batch, last.from); err != nil {
			return tailState{}, fmt.Errorf("read last commit: %w", err)
		}
		if crc32.Checksum(batch, castagnoli) != last.crc {
			last = before
		}
	}
	if last == nil {
		return tailState{}, nil
	}
	return tailState{end: last.at + frameHead, entries: last.entries, index: last.index}, nil
}

// putTailInOrder finishes what was begun on the newest segment: a whole index makes it a sealed one, with an empty
// segment behind it, and what lies behind the last whole commit is cleared. A segment that ends before the entry least,
// which was durable once, is damaged and left as it is, unless it is opened to be mended (Options.Short).
func putTailInOrder(dir string, o Options, least uint64, m types.MetaStore, state types.PersistentState) (types.PersistentState, error) {
	if len(state.Segments) == 0 || !state.Segments[len(state.Segments)-1].SealTime.IsZero() {
		return state, nil
	}
	tail := state.Segments[len(state.Segments)-1]
	name := segment.FileName(tail)
	f, err := o.Files.OpenWriter(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return state, fmt.Errorf("open newest segment %s: %w", name, err)
	}
	found, err := readTail(f)
	last := tail.BaseIndex + found.entries - 1
	switch {
	case err != nil || o.Look || last < least && !o.Short:
	case found.index > 0:
		now := time.Now()
		segments := append([]types.SegmentInfo(nil), state.Segments...)
		tail.SealTime, tail.MaxIndex, tail.IndexStart = now, last, found.index
		segments[len(segments)-1] = tail
		state.Segments = append(segments, types.SegmentInfo{
			ID: state.NextSegmentID, BaseIndex: last + 1, MinIndex: last + 1, SizeLimit: uint32(o.SegmentBytes),
			Codec: tail.Codec, CreateTime: now,
		})
		state.NextSegmentID++
		err = m.CommitState(state)
	default:
		err = clearBehind(f, found.end)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return state, fmt.Errorf("put newest segment %s in order: %w", name, err)
	}
	return state, nil
}

// clearBehind overwrites with zeros, durably, what is not zero from the offset on.
func clearBehind(f types.WritableFile, from int64) error {
	buf, zero := make([]byte, 256<<10), make([]byte, 256<<10)
	changed := false
	for at := from; ; {
		n, err := f.ReadAt(buf, at)
		for i := range buf[:n] {
			if buf[i] == 0 {
				continue
			}
			if _, err := f.WriteAt(zero[:n-i], at+int64(i)); err != nil {
				return err
			}
			changed = true
			break
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	return f.Sync()
}
