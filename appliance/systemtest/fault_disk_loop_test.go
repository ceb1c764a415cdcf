package systemtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Requests of ioctl(2) that golang.org/x/sys does not name.
const (
	ext4Shutdown = 0x8004587d // _IOR('X', 125, __u32): the file system ends as if the power went
	fsFreeze     = 0xc0045877 // _IOWR('X', 119, int)
	fsThaw       = 0xc0045878 // _IOWR('X', 120, int)

	shutdownWithoutLogFlush = 2
)

// mountPrefix begins the name of every folder below which loop disks are mounted; the id of the process that made it
// follows, so that what one that was killed left behind is found and taken away.
const mountPrefix = "tw-disk-"

// loopDisk is an ext4 of its own in a file, mounted over a loop device: one node's disk, to which the test does what
// happens to disks. The device frees itself with its last user, which is the mount or this process.
type loopDisk struct {
	image, at string
	device    *os.File // kept open over a loss of power
	mounted   bool
}

// newLoopDisk makes a disk of so many bytes and mounts it at the folder at, which is made. The image lies at path.
func newLoopDisk(ctx context.Context, path, at string, size int64) (d *loopDisk, err error) {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return nil, fmt.Errorf("make mount point: %w", err)
	}
	d = &loopDisk{image: path, at: at}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return d, fmt.Errorf("make image of a disk: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return d, fmt.Errorf("make image of a disk: %w", err)
	}
	// Without lazy initialisation nothing writes in the background; 4 kB blocks, so that it can grow.
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", path).CombinedOutput(); err != nil {
		return d, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	if d.device, err = attachLoop(f); err != nil {
		return d, err
	}
	return d, d.mount()
}

// attachLoop gives the image a free loop device, which frees itself with its last user.
func attachLoop(image *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open loop control: %w", err)
	}
	defer control.Close()
	var last error
	for range 50 { // another process may take the one that was free
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		path := "/dev/loop" + strconv.Itoa(n)
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("open loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(image.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}})
		if err == nil {
			return dev, nil
		}
		last = errors.Join(fmt.Errorf("configure %s: %w", path, err), dev.Close())
		if !errors.Is(err, unix.EBUSY) {
			return nil, last
		}
	}
	return nil, last
}

func (d *loopDisk) mount() error {
	if err := unix.Mount(d.device.Name(), d.at, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", d.device.Name(), d.at, err)
	}
	d.mounted = true
	return nil
}

// unmount waits for the last user to be gone: a process that was killed goes on holding files for a moment.
func (d *loopDisk) unmount() error {
	if !d.mounted {
		return nil
	}
	err := until(context.Background(), 20*time.Second, func(context.Context) error { return unix.Unmount(d.at, 0) })
	if err != nil {
		err = errors.Join(fmt.Errorf("unmount %s: %w", d.at, err), unix.Unmount(d.at, unix.MNT_DETACH))
	}
	d.mounted = false
	return err
}

// losePower ends the file system as a loss of power does: what was not on the device is gone, nothing more gets there.
// Whoever uses it gets errors from then on. restorePower mounts it again.
func (d *loopDisk) losePower() error {
	f, err := os.Open(d.at)
	if err != nil {
		return fmt.Errorf("lose power: %w", err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, shutdownWithoutLogFlush); err != nil {
		return fmt.Errorf("shut %s down: %w", d.at, err)
	}
	return nil
}

// restorePower mounts again what lost its power, of which no process has a file open any more. With check the file
// system is looked through first, as some machines do at boot.
func (d *loopDisk) restorePower(ctx context.Context, check bool) error {
	if err := d.unmount(); err != nil {
		return err
	}
	if check { // the journal is played back here; 1 says that something was put right
		out, err := exec.CommandContext(ctx, "e2fsck", "-fp", d.device.Name()).CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() > 1) {
			return fmt.Errorf("e2fsck: %w: %s", err, out)
		}
	}
	return d.mount()
}

// grow makes the disk larger while it is used.
func (d *loopDisk) grow(ctx context.Context, size int64) error {
	if err := os.Truncate(d.image, size); err != nil {
		return fmt.Errorf("grow image: %w", err)
	}
	if err := unix.IoctlSetInt(int(d.device.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("grow %s: %w", d.device.Name(), err)
	}
	if out, err := exec.CommandContext(ctx, "resize2fs", d.device.Name()).CombinedOutput(); err != nil {
		return fmt.Errorf("resize2fs: %w: %s", err, out)
	}
	return nil
}

// freeze stops all writing to the disk until thaw is called, which is idempotent, or limit has passed. A process of its
// own thaws then, whatever becomes of this one: nothing that the test writes itself may lie on the disk.
func (d *loopDisk) freeze(limit time.Duration) (thaw func() error, err error) {
	f, err := os.Open(d.at)
	if err != nil {
		return nil, fmt.Errorf("freeze: %w", err)
	}
	guard := exec.Command("sh", "-c", `sleep "$1"; exec fsfreeze --unfreeze "$2"`, "sh", fmt.Sprintf("%.3f", limit.Seconds()), d.at)
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := guard.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("freeze: the guard that thaws: %w", err), f.Close())
	}
	done := false
	thaw = func() error {
		if done {
			return nil
		}
		done = true
		err := unix.IoctlSetInt(int(f.Fd()), fsThaw, 0)
		if errors.Is(err, unix.EINVAL) { // the guard was first
			err = nil
		}
		_ = syscall.Kill(-guard.Process.Pid, syscall.SIGKILL)
		_ = guard.Wait()
		return errors.Join(err, f.Close())
	}
	if err := unix.IoctlSetInt(int(f.Fd()), fsFreeze, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("freeze %s: %w", d.at, err), thaw())
	}
	return thaw, nil
}

// close unmounts the disk, frees its device and removes its image.
func (d *loopDisk) close() error {
	errs := []error{d.unmount()}
	if d.device != nil {
		errs = append(errs, d.device.Close())
		d.device = nil
	}
	if err := os.Remove(d.image); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// diskRoom makes the folder below which a test mounts its disks, and takes away what killed tests left behind.
func diskRoom() (string, error) {
	sweepDisks()
	dir, err := os.MkdirTemp("", mountPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", fmt.Errorf("make a folder for disks: %w", err)
	}
	return dir, nil
}

// sweepDisks thaws, unmounts and removes the disks of processes that are gone.
func sweepDisks() {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !leftBehind(fields[1]) {
			continue
		}
		if f, err := os.Open(fields[1]); err == nil {
			_ = unix.IoctlSetInt(int(f.Fd()), fsThaw, 0)
			_ = f.Close()
		}
		_ = unix.Unmount(fields[1], unix.MNT_DETACH)
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), mountPrefix+"*"))
	for _, dir := range dirs {
		if leftBehind(dir) {
			_ = os.RemoveAll(dir)
		}
	}
}

// leftBehind reports whether the path lies in a folder for disks whose process is gone.
func leftBehind(path string) bool {
	_, rest, ok := strings.Cut(path, "/"+mountPrefix)
	if !ok {
		return false
	}
	pid, _, _ := strings.Cut(rest, "-")
	n, err := strconv.Atoi(pid)
	return err == nil && n > 0 && errors.Is(syscall.Kill(n, 0), syscall.ESRCH)
}
