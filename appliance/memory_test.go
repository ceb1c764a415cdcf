package appliance

import (
	"testing"
	"testing/fstest"
)

// The memory of a node is what the narrowest of its control groups allows, or what the machine has.
func TestMemoryAllowed(t *testing.T) {
	const machine = "MemFree: 1 kB\nMemTotal:    1048576 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing known": {nil, 0},
		"machine":       {map[string]string{"proc/meminfo": machine}, 1 << 30},
		"version 2": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/system.slice/triward.service\n",
			"sys/fs/cgroup/system.slice/triward.service/memory.max": "536870912\n", "sys/fs/cgroup/system.slice/memory.max": "max\n",
		}, 512 << 20},
		"version 2, high": {map[string]string{
			"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "536870912\n", "sys/fs/cgroup/a/memory.high": "402653184\n",
		}, 384 << 20},
		"group above": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "268435456\n", "sys/fs/cgroup/a/b/memory.max": "536870912\n",
		}, 256 << 20},
		"version 1": {map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "9:name=systemd:/x\n4:memory:/x\n3:cpuset:/\n0::/\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "536870912\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 512 << 20},
		"container that sees its own group only": {map[string]string{
			"proc/self/cgroup": "4:memory:/docker/17\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
		}, 512 << 20},
	} {
		files := fstest.MapFS{}
		for path, body := range c.files {
			files[path] = &fstest.MapFile{Data: []byte(body)}
		}
		if got := allowedMemory(files); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// Where memory is short all caches and budgets give the same share, down to what is needed to work; elsewhere they are as configured.
func TestMemoryIsShared(t *testing.T) {
	given := DefaultConfig()
	for _, allowed := range []int64{0, 8 << 30} {
		c := given
		if p := c.planMemory(allowed); p.shortened || c.Logs != given.Logs || c.Limits != given.Limits || c.Queue != given.Queue || p.seal != sealBytes {
			t.Errorf("%d bytes: %+v, %+v %+v %+v", allowed, p, c.Logs, c.Limits, c.Queue)
		}
	}
	held := func(c *Config, p *memoryPlan) int64 {
		return int64(c.Logs.CacheBytes+c.Queue.CacheBytes+c.Queue.BytesInFlight+c.Listen.Agents.BytesInFlight+c.Limits.LogQueryMemory) +
			memTables*p.memTable + sealTakes*p.seal + p.outlines + decodedBytes
	}
	c := given
	p := c.planMemory(1 << 30)
	if most := int64(1<<30) * 7 / 8; p.limit != most || !p.shortened || held(&c, &p) > most/2 || held(&c, &p) < most/3 {
		t.Errorf("of 1 GiB %d MiB are held and %d MiB are Go's: %+v %+v", held(&c, &p)>>20, p.limit>>20, p, c)
	}
	if 4*c.Logs.CacheBytes < 7*c.Queue.CacheBytes || c.Logs.CacheBytes > given.Logs.CacheBytes {
		t.Errorf("shares differ: %s and %s", c.Logs.CacheBytes, c.Queue.CacheBytes)
	}
	c = given
	if p := c.planMemory(256 << 20); held(&c, &p) > 256<<20 {
		t.Errorf("of 256 MiB %d MiB are held: %+v %+v", held(&c, &p)>>20, p, c)
	}
	if err := c.Validate(); err != nil {
		t.Errorf("what is left is out of bounds: %v", err)
	}
	small := given
	small.Logs.CacheBytes = 1 << 20
	small.planMemory(256 << 20)
	if small.Logs.CacheBytes != 1<<20 {
		t.Errorf("a cache grew: %s", small.Logs.CacheBytes)
	}
}
