package doctor

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kinds are names of file systems by their numbers in statfs.
var kinds = map[int64]string{
	0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x2fc12fc1: "zfs", 0xf2f52010: "f2fs",
	0x01021994: "tmpfs", 0x858458f6: "ramfs", 0x794c7630: "overlay", 0x6969: "nfs", 0xff534d42: "smb", 0xfe534d42: "smb",
	0x01021997: "9p", 0x65735546: "fuse",
}

func statVolume(path string) (*volume, error) {
	var st unix.Statfs_t
	var info unix.Stat_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, fmt.Errorf("look at the file system of %s: %w", path, err)
	}
	if err := unix.Stat(path, &info); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	kind, ok := kinds[int64(st.Type)]
	if !ok {
		kind = fmt.Sprintf("0x%x", st.Type)
	}
	return &volume{
		kind: kind, total: int64(st.Blocks) * st.Bsize, free: int64(st.Bavail) * st.Bsize,
		inodes: st.Files, inodesFree: st.Ffree, readOnly: st.Flags&unix.ST_RDONLY != 0, device: info.Dev,
	}, nil
}

// memoryOf returns MemTotal and MemAvailable in bytes.
func memoryOf() (total, available int64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		name, rest, _ := strings.Cut(s.Text(), ":")
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch {
		case err != nil:
		case name == "MemTotal":
			total = n << 10
		case name == "MemAvailable":
			available = n << 10
		}
	}
	if total == 0 {
		return 0, 0, fmt.Errorf("/proc/meminfo has no MemTotal: %w", s.Err())
	}
	return total, available, nil
}

// kernelLimit reads a number below /proc/sys.
func kernelLimit(name string) (int64, error) {
	body, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.Fields(string(body) + " 0")[0], 10, 64)
}
