package repository

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/triward/triward/raftstate/snapshot"
)

// Cache remembers what files held that never change once they are written, so that a save need not read them again. It
// saves time and changes no answer: which pieces make a file, and that they are there, says the repository alone.
type Cache struct {
	path string // "" keeps nothing over a restart

	mu    sync.Mutex
	files map[string]cachedFile
}

// cachedFile is a file that was read: the same inode with the same size and time of change has the same content, since
// nobody writes to it.
type cachedFile struct {
	Name    string `json:"name"`
	Device  uint64 `json:"dev"`
	Inode   uint64 `json:"ino"`
	Size    int64  `json:"size"`
	Changed int64  `json:"mtime_ns"`
	Sum     string `json:"sha256"`
}

// settled is how long before it is read a file must have been written, for its time of change to tell.
const settled = 5 * time.Second

const maxCacheFile = 256 << 20

// OpenCache reads the cache kept in a file. One that is absent or unusable is empty.
func OpenCache(file string) *Cache {
	c := &Cache{path: file, files: make(map[string]cachedFile)}
	if st, err := os.Stat(file); file == "" || err != nil || st.Size() > maxCacheFile {
		return c
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return c
	}
	var list []cachedFile
	if json.Unmarshal(b, &list) == nil {
		for _, f := range list {
			c.files[f.Name] = f
		}
	}
	return c
}

// immutable reports whether a file of an image is never written again once it is there: chunks and index of a block, and
// tables of Pebble. Logs grow, and metadata changes.
func immutable(name string) bool {
	parts := strings.Split(name, "/")
	switch {
	case len(parts) < 3:
		return false
	case parts[0] == snapshot.KindLogs:
		return strings.HasSuffix(name, ".sst")
	case parts[0] == snapshot.KindMetrics && len(parts[1]) == 26: // a ULID
		return parts[2] == "index" || parts[2] == "chunks" && len(parts) == 4
	}
	return false
}

func identify(f *os.File, m *snapshot.Member) (cachedFile, bool) {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Size != m.Size {
		return cachedFile{}, false
	}
	return cachedFile{Name: m.Name, Device: st.Dev, Inode: st.Ino, Size: st.Size, Changed: st.Mtim.Nano()}, true
}

// find returns what is known of a file.
func (c *Cache) find(f *os.File, m *snapshot.Member) (cachedFile, bool) {
	if !immutable(m.Name) {
		return cachedFile{}, false
	}
	now, ok := identify(f, m)
	if !ok {
		return cachedFile{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	held, ok := c.files[m.Name]
	now.Sum = held.Sum
	return held, ok && held == now
}

// seen is what may be remembered of a file that was read from began on.
func seen(f *os.File, m *snapshot.Member, sum string, began time.Time) (cachedFile, bool) {
	if !immutable(m.Name) {
		return cachedFile{}, false
	}
	c, ok := identify(f, m)
	if !ok || began.Sub(time.Unix(0, c.Changed)) < settled {
		return cachedFile{}, false
	}
	c.Sum = sum
	return c, true
}

// keep puts what a save found in the place of what was known. That it is not stored costs time, nothing else.
func (c *Cache) keep(files []cachedFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = make(map[string]cachedFile, len(files))
	for _, f := range files {
		c.files[f.Name] = f
	}
	if c.path != "" {
		_ = writeCache(c.path, files)
	}
}

func writeCache(file string, files []cachedFile) error {
	b, err := json.Marshal(files)
	if err != nil {
		return fmt.Errorf("encode cache: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// CacheFile is where the cache for a repository lies below a data directory.
func CacheFile(dataDir, folder string) string {
	return filepath.Join(dataDir, "backup", path.Base(folder)+".files.json")
}
