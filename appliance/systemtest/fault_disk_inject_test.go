package systemtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// diskTools says what disks cannot be made and broken with on this machine; nil when all is there.
func diskTools(tools ...string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("only root may mount a file system over a loop device: %w", errMachine)
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return fmt.Errorf("there are no loop devices: %w: %w", errMachine, err)
	}
	for _, tool := range append([]string{"mkfs.ext4", "e2fsck", "fsfreeze"}, tools...) {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed (apt-get install e2fsprogs util-linux strace)", tool)
		}
	}
	return loopWorks()
}

func testDisk(t *testing.T, size int64) *loopDisk {
	t.Helper()
	room, err := diskRoom()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(room) })
	d, err := newLoopDisk(t.Context(), filepath.Join(room, "image"), filepath.Join(room, "at"), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// The disk must forget what was not synced, or the rows that take its power show nothing, and keep what was.
func TestDiskLosesPower(t *testing.T) {
	if !can(t, diskTools()) {
		return
	}
	d := testDisk(t, 64<<20)
	for _, check := range []bool{false, true} {
		kept, lost := filepath.Join(d.at, fmt.Sprint("kept", check)), filepath.Join(d.at, fmt.Sprint("lost", check))
		f, err := os.Create(kept)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("first"); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(" second"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(lost, []byte("never synced"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.losePower(); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Errorf("sync without power says %v", err)
		}
		if err := f.Close(); err != nil {
			t.Log(err)
		}
		if err := d.restorePower(t.Context(), check); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(kept)
		if err != nil || string(b) != "first" {
			t.Errorf("%q %v is there of what was synced", b, err)
		}
		if _, err := os.Stat(lost); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what was not synced is there: %v", err)
		}
	}
}

func TestDiskFreezes(t *testing.T) {
	if !can(t, diskTools()) {
		return
	}
	d := testDisk(t, 64<<20)
	for _, byGuard := range []bool{false, true} {
		limit := time.Minute
		if byGuard {
			limit = time.Second
		}
		thaw, err := d.freeze(limit)
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan error, 1)
		go func() { written <- os.WriteFile(filepath.Join(d.at, "file"), []byte("x"), 0o600) }()
		select {
		case err := <-written:
			t.Errorf("writing to a frozen disk did not hang: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
		if !byGuard {
			if err := thaw(); err != nil {
				t.Error(err)
			}
		}
		select {
		case err := <-written:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the disk is still frozen")
		}
		if err := thaw(); err != nil {
			t.Error(err)
		}
	}
}

func TestDiskIsSlow(t *testing.T) {
	if !can(t, errors.Join(diskTools(), canThrottle())) {
		return
	}
	d := testDisk(t, 64<<20)
	th, err := newThrottle(d, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := th.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := th.slow(1<<20, 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `read x; dd if=/dev/zero of="$1" bs=64k count=32 conv=fsync 2>/dev/null`, "sh", filepath.Join(d.at, "file"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := th.add(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	began := time.Now()
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("2 MiB at 1 MiB a second took %v", took)
	}
}

func TestSyncFails(t *testing.T) {
	if !can(t, diskTools("strace")) {
		return
	}
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `read x; dd if=/dev/zero of="$1" bs=1k count=1 conv=fsync; echo $?; exec sleep 60`, "sh", filepath.Join(dir, "file"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tr, err := failSyncs(t.Context(), cmd.Process.Pid, 1, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Error(err)
	}
	err = until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		list, _, err := tr.syncsSeen()
		if err == nil && len(list) == 0 {
			err = errors.New("no sync was seen")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	_ = tr.close()
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if !strings.Contains(out.String(), "Input/output error") {
		t.Errorf("the sync did not fail: %s", out.String())
	}
	list, _, err := tr.syncsSeen()
	if err != nil || len(list) != 1 || !list[0].failed {
		t.Errorf("%+v %v", list, err)
	}
}

// A clock that is set moves the wall clock alone.
func TestClockJumps(t *testing.T) {
	dir := t.TempDir()
	overlay, err := clockOverlay(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	const program = `package main

import (
	"fmt"
	"time"
)

func main() {
	began := time.Now()
	fmt.Println(began.Unix())
	fmt.Scanln()
	fmt.Println(time.Now().Unix(), time.Since(began) < time.Minute)
}
`
	main := filepath.Join(dir, "main.go")
	if err := os.WriteFile(main, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "clock")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", bin, main).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	clock, err := newWallClock(filepath.Join(dir, "by"))
	if err != nil {
		t.Fatal(err)
	}
	if err := clock.set(-time.Hour); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin)
	cmd.Env = append(os.Environ(), clock.environ())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var first, second int64
	var steady bool
	if _, err := fmt.Fscan(out, &first); err != nil {
		t.Fatal(err)
	}
	if err := clock.set(24 * time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(out, &second, &steady); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if d := first - now + 3600; d < 0 || d > 30 {
		t.Errorf("an hour back is %d s off", d)
	}
	if d := second - now - 24*3600; d < 0 || d > 60 || !steady {
		t.Errorf("a day ahead is %d s off, the monotonic clock is steady: %v", d, steady)
	}
}
