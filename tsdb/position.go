package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// positionFile says up to where the write-ahead logs were complete and durable at the last Flush. What lies behind
// may be torn after a power loss, for the Raft log brings it again; a fault before it is damage.
const positionFile = "flushed.json"

// walPosition is a place between two records of a write-ahead log.
type walPosition struct {
	Segment int   `json:"segment"` // -1: the log is empty
	Offset  int64 `json:"offset"`  // bytes of that segment that are complete
}

func (p walPosition) before(q walPosition) bool {
	return p.Segment < q.Segment || p.Segment == q.Segment && p.Offset < q.Offset
}

type position struct {
	WAL walPosition `json:"wal"`
	WBL walPosition `json:"wbl"`
	// Boot names the run of the kernel; in another one a power loss may have taken the end of any file.
	Boot string `json:"boot"`
	// Clean says that the store was closed in order after this position was taken.
	Clean bool `json:"clean"`
	// Derived has the sizes of the files with chunks of the head when Clean: the head's image of that moment needs
	// them.
	Derived map[string]int64 `json:"derived,omitempty"`
}

var noPosition = position{WAL: walPosition{Segment: -1}, WBL: walPosition{Segment: -1}}

// bootID returns the kernel's name of this boot, or "" where there is none; an empty one never equals another.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// readPosition returns noPosition when the store has none yet.
func readPosition(dir string) (position, error) {
	p := noPosition
	_, err := readSealed(filepath.Join(dir, positionFile), &p)
	return p, err
}

// writePosition replaces the file; with durable it is fsynced before it takes its name.
func writePosition(dir string, p position, durable bool) error {
	return writeSealed(filepath.Join(dir, positionFile), p, durable)
}

// endOfLog returns where a write-ahead log ends now. No record may be being written.
func endOfLog(dir string) (walPosition, error) {
	segs, err := listSegments(dir)
	if err != nil || len(segs) == 0 {
		return walPosition{Segment: -1}, err
	}
	last := segs[len(segs)-1]
	st, err := os.Stat(last.path)
	if err != nil {
		return walPosition{Segment: -1}, fmt.Errorf("end of log: %w", err)
	}
	return walPosition{Segment: last.index, Offset: st.Size()}, nil
}

// syncLog fsyncs the segments from one position to another, and the directory.
func syncLog(dir string, from, to walPosition) error {
	segs, err := listSegments(dir)
	if err != nil {
		return err
	}
	for _, s := range segs {
		if s.index < from.Segment || s.index > to.Segment {
			continue
		}
		if err := syncPath(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncPath(dir)
}

// syncPath fsyncs a file or directory. What a failed fsync has lost a second one does not tell, so the error matches no
// cause, a full disk in particular, that would invite the caller to try again.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %s", path, err.Error())
	}
	return nil
}
