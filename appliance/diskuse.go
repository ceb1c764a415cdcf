package appliance

import (
	"io/fs"
	"maps"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
)

// usageEvery is how often files are added up, unless a hundredth of the disk's room was taken or freed meanwhile.
const usageEvery = 30 * time.Second

// queueShare is the part of the disk that the log may take, however much the configuration allows it: what the log
// keeps for nodes that are away must not drive data out.
const queueShare = 10

// segmentBytes is what the log allots at once.
const segmentBytes = 64 << 20

// queueBytes is how much of the log this node keeps.
func (a *App) queueBytes() int64 {
	most := int64(a.cfg.Queue.Retention.Bytes)
	var st unix.Statfs_t
	if err := unix.Statfs(a.cfg.DataDir, &st); err == nil {
		most = min(most, max(1<<20, int64(st.Blocks)*int64(st.Bsize)/queueShare))
	}
	return most
}

// diskGauge measures the disk of the data directory and what of this node's lies on it.
type diskGauge struct {
	app *App

	mu   sync.Mutex
	last retention.Report
	at   time.Time // of the sizes of files in last
	free int64     // then
}

// report measures. What is free is of this moment, what files take may be some seconds old.
func (d *diskGauge) report() retention.Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.app
	st := a.node.Status()
	r := &d.last
	var disk unix.Statfs_t
	if err := unix.Statfs(a.cfg.DataDir, &disk); err == nil {
		// What the file system keeps for root is no part of the disk that we have.
		r.Total = int64(disk.Blocks-(disk.Bfree-disk.Bavail)) * int64(disk.Bsize)
		r.Free = int64(disk.Bavail) * int64(disk.Bsize)
	}
	pending := d.pending()
	moved := max(r.Free-d.free, d.free-r.Free) > r.Room()/100
	if r.Kinds == nil || moved || time.Since(d.at) > usageEvery || pending != r.Pending {
		d.measure(&st)
		d.at, d.free = time.Now(), r.Free
	}
	r.Node, r.Pending, r.Installing = a.cfg.NodeID, pending, st.Installing || st.Probation
	out := *r
	out.Kinds = maps.Clone(r.Kinds)
	out.Pass(a.metrics.Passing(), command.KindMetrics)
	out.Pass(a.logs.Passing(), command.KindLogs, command.KindEvents)
	return out
}

// pending reports whether days that were cut are still on the disk.
func (d *diskGauge) pending() bool {
	floor := d.app.state.wait().Floor(command.KindMetrics)
	blocks, err := d.app.metrics.Blocks()
	if err != nil {
		return false
	}
	for _, b := range blocks {
		if b.MaxTime <= floor {
			return true
		}
	}
	some, err := d.app.logs.Pending()
	return err == nil && some
}

// measure adds up files and days.
func (d *diskGauge) measure(st *raftstate.Status) {
	a, r := d.app, &d.last
	files := newFileSum(a.cfg.DataDir)
	tsdbDir, logsDir := filepath.Join(a.dataPath("tsdb"), st.Generation), filepath.Join(a.dataPath("logs"), st.Generation)
	r.Queue = files.add(a.dataPath("raft")) + files.add(a.dataPath("queue"))
	r.QueueMost = st.QueueBytes + 2*segmentBytes
	metrics, lines := files.add(tsdbDir), files.add(logsDir)
	r.Meta = files.add(filepath.Join(a.dataPath("meta"), st.Generation))
	// Images and other generations; what of them is linked was counted already.
	r.Temporary = files.add(a.dataPath("tsdb")) + files.add(a.dataPath("logs")) + files.add(a.dataPath("meta")) + files.add(a.dataPath(readingDir))

	_, sums := a.node.Digest()
	var items [2]uint64 // lines and events
	for i := range sums {
		switch s := &sums[i]; s.Kind {
		case command.KindLogs:
			items[0] += s.Count
		case command.KindEvents:
			items[1] += s.Count
		}
	}
	// Lines and events share a store; what one takes goes by their number.
	perItem := float64(lines) / float64(max(1, items[0]+items[1]))
	events := int64(perItem * float64(items[1]))
	r.Kinds = map[string]int64{
		command.KindMetrics.String(): metrics, command.KindLogs.String(): lines - events, command.KindEvents.String(): events,
	}
	r.Days = make(map[string][]retention.DayBytes)
	for i := range sums {
		if s := &sums[i]; s.Kind != command.KindMetrics && files.lies(logsDir) {
			name := s.Kind.String()
			r.Days[name] = append(r.Days[name], retention.DayBytes{Day: s.Day, Bytes: int64(perItem * float64(s.Count))})
		}
	}
	if files.lies(tsdbDir) {
		r.Days[command.KindMetrics.String()] = d.blockDays()
	}
}

// blockDays is what blocks of samples take, by the day in which they end: then they can go.
func (d *diskGauge) blockDays() (days []retention.DayBytes) {
	blocks, err := d.app.metrics.Blocks()
	if err != nil {
		return nil
	}
	floor := d.app.state.wait().Floor(command.KindMetrics)
	byDay := make(map[int64]int64)
	for _, b := range blocks {
		if b.MaxTime > floor {
			byDay[(b.MaxTime-1)/retention.DayMs] += b.Bytes
		}
	}
	for day, n := range byDay {
		days = append(days, retention.DayBytes{Day: day, Bytes: n})
	}
	return days
}

// fileSum adds up what files take on one disk, each once however many names it has. A store on a disk of its own takes
// nothing of this one, and what were cut of it would free nothing here.
type fileSum struct {
	disk uint64
	seen map[inode]bool
}

type inode struct{ dev, ino uint64 }

func newFileSum(dir string) *fileSum { return &fileSum{diskOf(dir), make(map[inode]bool)} }

// diskOf is the number of the file system that path lies on; 0 when that is not known.
func diskOf(path string) uint64 {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return st.Dev
}

// lies reports whether dir lies on the disk.
func (f *fileSum) lies(dir string) bool { return diskOf(dir) == f.disk }

// add returns what the files below dir take of the disk that were not added before.
func (f *fileSum) add(dir string) (n int64) {
	if !f.lies(dir) {
		return 0
	}
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil // files come and go while we look
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		key := inode{st.Dev, st.Ino}
		if f.seen[key] {
			return nil
		}
		f.seen[key] = true
		n += st.Blocks * 512
		return nil
	})
	return n
}
