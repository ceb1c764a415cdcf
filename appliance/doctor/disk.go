package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/triward/triward/appliance"
)

// Bounds of disks.
const (
	fsyncTimes   = 40
	fsyncAtMost  = 3 * time.Second
	fsyncWarn    = 50 * time.Millisecond  // middle value
	fsyncProblem = 500 * time.Millisecond // middle value: elections come into reach
	freeWarn     = 20                     // percent; retention warns at 80 % used
	freeProblem  = 5
	diskLeast    = 10 << 30
)

// volume is a file system as statfs tells it.
type volume struct {
	kind        string
	total, free int64 // bytes; free to those who are not root
	inodes      uint64
	inodesFree  uint64
	readOnly    bool
	device      uint64
}

// unsafeKinds are file systems that a data directory must not lie on, and why.
var unsafeKinds = map[string]string{
	"tmpfs": "it is memory: everything is gone when the power is",
	"ramfs": "it is memory: everything is gone when the power is",
	"nfs":   "locks and fsync are another machine's, and so is the disk's failure",
	"smb":   "locks and fsync are another machine's, and so is the disk's failure",
	"9p":    "fsync may promise what the host does not keep",
	"fuse":  "whether fsync keeps what it promises is that program's matter",
}

// wellKnown are file systems that the node is tested on or that are known to keep what fsync promises.
var wellKnown = []string{"ext4", "xfs", "btrfs", "zfs"}

// storeDirs are the folders of the data directory that may be file systems of their own.
var storeDirs = []string{"raft", "tsdb", "logs", "meta"}

// disk judges the file systems of the data directory and how fast they make something durable.
func disk(ctx context.Context, cfg *appliance.Config, _ bool) (r Report) {
	dir := existing(cfg.DataDir)
	seen := make(map[uint64]bool)
	for _, path := range append([]string{dir}, stores(cfg.DataDir)...) {
		v, err := statVolume(path)
		if err != nil {
			r.Add("disk", path, Warning, err.Error(), asRoot)
			continue
		}
		if seen[v.device] {
			continue
		}
		seen[v.device] = true
		r = append(r, v.judge(path)...)
		if path != dir || dir == cfg.DataDir {
			r = append(r, measure(ctx, path))
		}
	}
	if dir != cfg.DataDir {
		r.Add("disk", "data_dir", OK, cfg.DataDir+" is not there yet; what is said of the disk is said of "+dir, "")
	}
	return r
}

// existing is the path, or the nearest directory above it that is there.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

func stores(dataDir string) (out []string) {
	for _, name := range storeDirs {
		path := filepath.Join(dataDir, name)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			out = append(out, path)
		}
	}
	return out
}

func (v *volume) judge(path string) (r Report) {
	const gib = 1 << 30
	part := int64(100)
	if v.total > 0 {
		part = v.free * 100 / v.total
	}
	room := fmt.Sprintf("%.1f of %.1f GiB free (%d %%)", float64(v.free)/gib, float64(v.total)/gib, part)
	more := "give " + path + " more room, or let retention keep less: triward retention"
	switch {
	case part < freeProblem:
		r.Add("disk", path, Problem, room+"; when it is full, senders are told to wait", more)
	case part < freeWarn || v.free < diskLeast/2:
		r.Add("disk", path, Warning, room, more)
	default:
		r.Add("disk", path, OK, room, "")
	}
	if v.inodes > 0 && v.inodesFree*100/v.inodes < freeProblem {
		r.Add("disk", path+" inodes", Problem, fmt.Sprintf("%d of %d inodes free", v.inodesFree, v.inodes), "make a file system with more inodes")
	}
	why, bad := unsafeKinds[v.kind]
	switch {
	case v.readOnly:
		r.Add("disk", path+" file system", Problem, v.kind+", mounted read-only", "look at the kernel's log (dmesg): a disk that gives errors is mounted so; then mount it read-write")
	case bad:
		r.Add("disk", path+" file system", Problem, v.kind+": "+why, "put "+path+" on a local disk with ext4 or xfs")
	case !slices.Contains(wellKnown, v.kind):
		r.Add("disk", path+" file system", Warning, v.kind+" is not one the node is tested on", "put "+path+" on a local disk with ext4 or xfs")
	default:
		r.Add("disk", path+" file system", OK, v.kind, "")
	}
	return r
}

// measure writes and syncs 4 KiB again and again, as an entry of the log is.
func measure(ctx context.Context, dir string) Finding {
	f := Finding{Check: "disk", Subject: dir + " fsync", Status: OK}
	middle, worst, err := syncTimes(ctx, dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.Status, f.Detail, f.Remedy = Warning, "not measured: "+err.Error(), asRoot
	case err != nil:
		f.Status, f.Detail, f.Remedy = Problem, err.Error(), "look at the disk and at the kernel's log (dmesg)"
	default:
		f.Detail = fmt.Sprintf("middle %s, longest %s", middle.Round(10*time.Microsecond), worst.Round(10*time.Microsecond))
		switch {
		case middle > fsyncProblem:
			f.Status = Problem
		case middle > fsyncWarn:
			f.Status = Warning
		}
		if f.Status != OK {
			f.Remedy = "every write waits for this: use a faster disk, or one that it shares with nobody"
		}
	}
	return f
}

func syncTimes(ctx context.Context, dir string) (middle, worst time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 4<<10)
	var took []time.Duration
	for end := time.Now().Add(fsyncAtMost); len(took) < fsyncTimes && time.Now().Before(end) && ctx.Err() == nil; {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
		took = append(took, time.Since(began))
	}
	if len(took) == 0 {
		return 0, 0, context.Cause(ctx)
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)-1], nil
}
