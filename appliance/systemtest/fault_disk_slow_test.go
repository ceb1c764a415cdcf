package systemtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// blkioDir is where the controller of version 1 that bounds what a process writes to a device is mounted.
const blkioDir = "/sys/fs/cgroup/blkio"

// throttle is a group of processes whose writing to one device is bounded.
type throttle struct{ dir, device string }

// canThrottle says why disks cannot be made slow on this machine; nil when they can.
func canThrottle() error {
	if _, err := os.Stat(filepath.Join(blkioDir, "blkio.throttle.write_bps_device")); err != nil {
		return fmt.Errorf("blkio of cgroup version 1 is not mounted: %w: %w", errMachine, err)
	}
	dir := filepath.Join(blkioDir, fmt.Sprintf("tw-%d-try", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("a group of blkio: %w: %w", errMachine, err)
	}
	if err := unix.Rmdir(dir); err != nil {
		return fmt.Errorf("a group of blkio: %w", err)
	}
	return nil
}

// newThrottle makes a group for the processes that use d. Nothing is bounded until slow is called.
func newThrottle(d *loopDisk, name string) (*throttle, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.device.Fd()), &st); err != nil {
		return nil, fmt.Errorf("throttle %s: %w", d.device.Name(), err)
	}
	t := &throttle{
		dir:    filepath.Join(blkioDir, fmt.Sprintf("tw-%d-%s", os.Getpid(), name)),
		device: fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))),
	}
	if err := os.Mkdir(t.dir, 0o755); err != nil {
		return nil, fmt.Errorf("throttle: %w", err)
	}
	return t, nil
}

// add puts a process into the group.
func (t *throttle) add(pid int) error {
	if err := os.WriteFile(filepath.Join(t.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("throttle process %d: %w", pid, err)
	}
	return nil
}

// slow bounds what the group writes to so many bytes and writes a second; 0: no bound.
func (t *throttle) slow(bytes, writes int) error {
	for file, n := range map[string]int{"blkio.throttle.write_bps_device": bytes, "blkio.throttle.write_iops_device": writes} {
		if err := os.WriteFile(filepath.Join(t.dir, file), fmt.Appendf(nil, "%s %d", t.device, n), 0); err != nil {
			return fmt.Errorf("throttle: %w", err)
		}
	}
	return nil
}

// close lifts the bounds, moves the processes out and removes the group.
func (t *throttle) close() error {
	err := t.slow(0, 0)
	pids, readErr := os.ReadFile(filepath.Join(t.dir, "cgroup.procs"))
	for _, pid := range fieldsOf(pids) {
		_ = os.WriteFile(filepath.Join(blkioDir, "cgroup.procs"), []byte(pid), 0) // it may have ended
	}
	return errors.Join(err, readErr, unix.Rmdir(t.dir))
}
