package events

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/triward/triward/agent/wire"
)

// Mount is a file system of the host.
type Mount struct {
	Point    string
	Device   string
	Type     string
	ReadOnly bool // the file system itself, not only this mount of it
}

// Usage of a file system in bytes, as an ordinary user sees it.
type Usage struct{ Used, Free int64 }

// Percent in use, of what an ordinary user may use.
func (u Usage) Percent() float64 {
	if u.Used+u.Free <= 0 {
		return 0
	}
	return 100 * float64(u.Used) / float64(u.Used+u.Free)
}

const (
	maxMounts     = 256 // looked at
	maxMountLines = 20_000
	levelWarn     = "warning"
	levelCritical = "critical"
	// hysteresis in per cent: a level ends that far below where it begins.
	hysteresis = 3
)

// local are the types of file systems that are looked at. A network file system can hang whoever looks at it, and is
// told of by the host that has it.
var local = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "zfs": true, "f2fs": true, "jfs": true, "reiserfs": true,
	"bcachefs": true, "vfat": true, "exfat": true, "ntfs3": true, "ufs": true,
}

// readMounts reads the mounts of this process in the form of /proc/self/mountinfo. Of several mounts of a device the
// first counts.
func readMounts(path string) ([]Mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("list file systems: %w", err)
	}
	defer f.Close()
	return parseMounts(f)
}

func parseMounts(r io.Reader) ([]Mount, error) {
	var out []Mount
	seen := map[string]bool{}
	in := bufio.NewScanner(r)
	for n := 0; in.Scan() && n < maxMountLines && len(out) < maxMounts; n++ {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
		before, after, ok := strings.Cut(in.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 6 || len(tail) < 3 || !local[tail[0]] || seen[head[2]] {
			continue
		}
		seen[head[2]] = true
		out = append(out, Mount{
			Point: unescape(head[4]), Type: tail[0], Device: unescape(tail[1]), ReadOnly: slices.Contains(strings.Split(tail[2], ","), "ro"),
		})
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("list file systems: %w", err)
	}
	return out, nil
}

// unescape undoes the kernel's \040 for a blank.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// watchFilesystems looks at the file systems until ctx ends. It has a goroutine of its own: a disk that hangs hangs
// whoever asks for its usage.
func (s *Source) watchFilesystems(ctx context.Context) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	rw := map[string]bool{} // mount points that were seen writable
	for {
		if err := s.lookAtFilesystems(ctx, rw); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("file systems are not looked at", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Source) excluded(point string) bool {
	for _, glob := range s.cfg.Exclude {
		if ok, err := doublestar.Match(glob, point); ok && err == nil {
			return true
		}
	}
	return false
}

// host is a mount point as the host names it.
func (s *Source) host(point string) (name string, ok bool) {
	root := strings.TrimRight(s.cfg.Root, "/")
	if root == "" {
		return point, true
	}
	if point == root {
		return "/", true
	}
	return strings.CutPrefix(point, root)
}

func (s *Source) lookAtFilesystems(ctx context.Context, rw map[string]bool) error {
	mounts, err := s.cfg.Mounts()
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, m := range mounts {
		name, ok := s.host(filepath.Clean(m.Point))
		if !ok || s.excluded(name) {
			continue
		}
		there[name] = true
		if err := s.readOnly(ctx, &m, name, rw); err != nil {
			return err
		}
		if m.ReadOnly {
			continue
		}
		rw[name] = true
		u, err := s.cfg.Usage(m.Point)
		if err != nil {
			continue // taken away meanwhile, or not ours to look at
		}
		if err := s.fill(ctx, &m, name, u); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.st.Levels {
		if !there[name] {
			delete(s.st.Levels, name)
		}
	}
	for name := range s.st.Frozen {
		if !there[name] {
			delete(s.st.Frozen, name)
		}
	}
	return nil
}

// level is what a usage makes of the level before.
func (s *Source) level(was string, percent float64) string {
	warn, critical := float64(s.cfg.Warn), float64(s.cfg.Critical)
	switch {
	case percent >= critical, was == levelCritical && percent >= critical-hysteresis:
		return levelCritical
	case percent >= warn, was != "" && percent >= warn-hysteresis:
		return levelWarn
	}
	return ""
}

func (s *Source) fill(ctx context.Context, m *Mount, name string, u Usage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.st.Levels[name]
	now := s.level(was, u.Percent())
	if now == was {
		return nil
	}
	if was == "" && !s.room(name) {
		s.cfg.Log.Warn("more file systems are full than can be remembered: one is not told", "mountpoint", name)
		return nil
	}
	percent := strconv.FormatFloat(u.Percent(), 'f', 1, 64)
	e := Event{
		Name: FilesystemFull, Key: name, Severity: wire.SeverityWarning, Text: fmt.Sprintf("%s is %s %% full", name, percent),
		Tags: map[string]string{"mountpoint": name, "device": m.Device, "percent": percent, "free_bytes": strconv.FormatInt(u.Free, 10), "level": now},
	}
	switch {
	case now == levelCritical:
		e.Severity = wire.SeverityCritical
	case now == "":
		e.Name, e.Severity, e.Text = FilesystemRoom, wire.SeverityInfo, fmt.Sprintf("%s has room again: %s %% full", name, percent)
	case was == levelCritical:
		e.Text += ", less than it was"
	}
	e.grade, e.always = now, true
	if now == "" {
		delete(s.st.Levels, name)
	} else {
		s.st.Levels[name] = now
	}
	if err := s.emit(ctx, e); err != nil {
		s.st.Levels[name] = was
		return err
	}
	return nil
}

// room reports whether the state may name one more file system.
func (s *Source) room(name string) bool {
	n := len(encode(name))
	for p := range s.st.Levels {
		n += len(encode(p)) + 12
	}
	for p := range s.st.Frozen {
		n += len(encode(p)) + 12
	}
	return n <= maxPlaces
}

// readOnly tells of a file system that turned read-only under the programs that write to it, as it does when its disk
// gives errors. One that was mounted so is as it should be.
func (s *Source) readOnly(ctx context.Context, m *Mount, name string, rw map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	frozen := s.st.Frozen[name]
	var e Event
	switch {
	case m.ReadOnly && rw[name] && !frozen && s.room(name):
		e = Event{Name: FilesystemReadOnly, Severity: wire.SeverityCritical, Text: name + " became read-only: look at the kernel's log for errors of " + m.Device}
		s.st.Frozen[name] = true
	case !m.ReadOnly && frozen:
		e = Event{Name: FilesystemWritable, Severity: wire.SeverityInfo, Text: name + " can be written again"}
		delete(s.st.Frozen, name)
	default:
		return nil
	}
	e.always = true
	e.Key, e.Tags = name, map[string]string{"mountpoint": name, "device": m.Device, "fstype": m.Type}
	if err := s.emit(ctx, e); err != nil {
		s.st.Frozen[name] = frozen
		return err
	}
	return nil
}
