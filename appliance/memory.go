package appliance

import (
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// What a node may take of the memory that it is allowed (limits.memory): an eighth is left to what Go's collector does not see, such as
// pages of the stores' files, and half of the rest to what is alive for a moment and to garbage: a collector that has no room runs all
// the time.
const (
	unseenShare = 8
	heldShare   = 2
)

// memoryPlan is what the parts of a node may hold in memory.
type memoryPlan struct {
	limit     int64 // for Go's collector; 0: none
	memTable  int64 // of the log store, one of four
	seal      int64 // of lines that are sealed at once
	outlines  int64
	shortened bool // there is less than the configuration asks for
}

// Without a limit that is felt.
const (
	memTableBytes = 16 << 20
	sealBytes     = 64 << 20
	outlineBytes  = 32 << 20
	sealTakes     = 3 // times what is sealed: its lines, the blocks, and lines that wait decoded for the next time
	memTables     = 4
	sampleBytes   = 16
)

// planMemory returns the plan for a node that is allowed so many bytes, 0 for as many as there are, and takes from the configuration's
// caches and budgets what it has too much, from each the same share.
func (c *Config) planMemory(allowed int64) memoryPlan {
	p := memoryPlan{memTable: memTableBytes, seal: sealBytes, outlines: outlineBytes}
	if allowed <= 0 {
		return p
	}
	p.limit = allowed - allowed/unseenShare
	room := p.limit/heldShare - decodedBytes
	if most := int(room / 2 / sampleBytes); c.Limits.QuerySamples > most {
		c.Limits.QuerySamples, p.shortened = max(most, 10_000), true
	}
	parts := []struct {
		bytes *int64
		least int64
		times int64
	}{
		{(*int64)(&c.Logs.CacheBytes), 8 << 20, 1},
		{(*int64)(&c.Queue.CacheBytes), 4 << 20, 1},
		{(*int64)(&c.Queue.BytesInFlight), 8 << 20, 1},
		{(*int64)(&c.Listen.Agents.BytesInFlight), 8 << 20, 1},
		{(*int64)(&c.Limits.LogQueryMemory), 64 << 20, 1},
		{&p.memTable, 4 << 20, memTables},
		{&p.seal, 16 << 20, sealTakes},
		{&p.outlines, 4 << 20, 1},
	}
	wanted := int64(0)
	for _, part := range parts {
		wanted += *part.bytes * part.times
	}
	if wanted <= room {
		return p
	}
	p.shortened = true
	for _, part := range parts {
		*part.bytes = min(*part.bytes, max(part.least, int64(float64(*part.bytes)*float64(room)/float64(wanted))))
	}
	return p
}

// limitMemory makes the plan for this process and tells Go's collector. GOMEMLIMIT in the environment is the operator's own word on
// the latter.
func (c *Config) limitMemory(log *slog.Logger) memoryPlan {
	allowed := int64(c.Limits.Memory)
	if allowed == 0 {
		allowed = allowedMemory(os.DirFS("/"))
	}
	p := c.planMemory(allowed)
	if p.limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(p.limit)
	}
	if p.shortened {
		log.Info("memory is short of what the configuration asks for: caches and budgets are smaller", "allowed", Size(allowed).String(),
			"logs.cache_bytes", c.Logs.CacheBytes>>20, "queue.cache_bytes", c.Queue.CacheBytes>>20, "queue.bytes_in_flight", c.Queue.BytesInFlight>>20,
			"listen.agents.bytes_in_flight", c.Listen.Agents.BytesInFlight>>20, "limits.log_query_memory", c.Limits.LogQueryMemory>>20,
			"unit", "MiB", "limits.query_samples", c.Limits.QuerySamples)
	}
	return p
}

// allowedMemory returns how many bytes the process may take: what the machine has, or less when its control group, of version 1 or 2,
// or one above it says so (MemoryMax and MemoryHigh of systemd, containers). 0 is not known. root is the root of the file system.
func allowedMemory(root fs.FS) int64 {
	least := int64(math.MaxInt64)
	take := func(name string) {
		body, err := fs.ReadFile(root, name)
		if err != nil {
			return
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(body)), 10, 64); err == nil && n > 0 { // not "max"
			least = min(least, n)
		}
	}
	groups, _ := fs.ReadFile(root, "proc/self/cgroup") // none elsewhere than on Linux
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		dir, files := "sys/fs/cgroup", []string{"memory.max", "memory.high"}
		if controllers == "memory" {
			dir, files = "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}
		} else if controllers != "" {
			continue
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) { // in a container the group's own files may lie at the top
			for _, name := range files {
				take(path.Join(dir, group, name))
			}
			if group == "/" {
				break
			}
		}
	}
	machine, _ := fs.ReadFile(root, "proc/meminfo")
	for line := range strings.Lines(string(machine)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			if kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64); err == nil {
				least = min(least, kib<<10)
			}
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}
