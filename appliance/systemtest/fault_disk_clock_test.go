package systemtest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// clockEnv names the file that a program built over clockOverlay reads by how much its wall clock is wrong.
const clockEnv = "TRIWARD_TEST_CLOCK"

// clockSource is added to package time. The monotonic clock goes on, as when somebody sets the clock of a machine.
const clockSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var jumped = mapJump()

// mapJump maps the file, so that whoever writes to it sets the clock of this process at once.
func mapJump() *int64 {
	path, ok := syscall.Getenv("` + clockEnv + `")
	if !ok {
		return new(int64)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("time: " + path + ": " + err.Error())
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("time: map " + path + ": " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}

func jump() int64 {
	if jumped == nil {
		return 0
	}
	return atomic.LoadInt64(jumped)
}
`

// clockPlace is where time.Now reads the clocks.
const clockPlace = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"

// clockOverlay writes what go build -overlay wants for a program whose wall clock can be set, and returns its path.
func clockOverlay(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	pkg := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	src, err := os.ReadFile(filepath.Join(pkg, "time.go"))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(src), clockPlace); n != 1 {
		return "", fmt.Errorf("time.Now of this Go is another (%d places look like it): change clockPlace", n)
	}
	changed, added := filepath.Join(dir, "time.go"), filepath.Join(dir, "jump.go")
	text := strings.Replace(string(src), clockPlace, clockPlace+"\tsec += jump()\n", 1)
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(added, []byte(clockSource), 0o600); err != nil {
		return "", err
	}
	desc, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(pkg, "time.go"): changed, filepath.Join(pkg, "triward_jump.go"): added,
	}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, desc, 0o600)
}

// wallClock is the clock of one node, by how much it is wrong.
type wallClock struct{ path string }

func newWallClock(path string) (*wallClock, error) {
	return &wallClock{path}, os.WriteFile(path, make([]byte, 8), 0o600)
}

// set makes the clock wrong by d from now on, whole seconds of it.
func (w *wallClock) set(d time.Duration) error {
	f, err := os.OpenFile(w.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(d/time.Second))), 0); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}

// environ is what a process that has this clock is started with.
func (w *wallClock) environ() string { return clockEnv + "=" + w.path }
