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
	"time"
)

func fieldsOf(b []byte) []string { return strings.Fields(string(b)) }

// tracer is strace on a running process: it makes system calls fail, or take their time, and writes down all of them.
type tracer struct {
	cmd  *exec.Cmd
	path string // what it wrote down
	said *bytes.Buffer
}

// syncs are the system calls by which the node makes things durable.
const syncs = "fsync,fdatasync,syncfs"

// failSyncs makes every sync of the process fail with EIO, from the nth of each thread on.
func failSyncs(ctx context.Context, pid, nth int, dir string) (*tracer, error) {
	return attach(ctx, pid, dir, fmt.Sprintf("inject=%s:error=EIO:when=%d+", syncs, nth))
}

// attach puts strace on a process and returns once all its threads are held.
func attach(ctx context.Context, pid int, dir string, expressions ...string) (*tracer, error) {
	t := &tracer{path: filepath.Join(dir, fmt.Sprintf("strace.%d", pid)), said: new(bytes.Buffer)}
	args := []string{"-f", "-ttt", "-y", "-o", t.path, "-e", "trace=" + syncs + ",exit_group", "-p", fmt.Sprint(pid)}
	for _, e := range expressions {
		args = append(args, "-e", e)
	}
	t.cmd = exec.Command("strace", args...)
	t.cmd.Stderr = t.said
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("strace: %w", err)
	}
	err := until(ctx, 10*time.Second, func(context.Context) error {
		if info, err := os.Stat(t.path); err == nil && info.Size() > 0 {
			return nil // it has seen something already, perhaps the end
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		if !bytes.Contains(status, fmt.Appendf(nil, "TracerPid:\t%d\n", t.cmd.Process.Pid)) {
			return errors.New("strace does not hold the process yet")
		}
		return nil
	})
	if err != nil {
		_ = t.close()
		return nil, fmt.Errorf("%w: %s", err, t.said)
	}
	return t, nil
}

// close lets the process go. It is idempotent.
func (t *tracer) close() error {
	if t.cmd == nil {
		return nil
	}
	_ = t.cmd.Process.Signal(syscall.SIGTERM)
	_ = t.cmd.Wait()
	t.cmd = nil
	return nil
}

// tracedSync is a sync that the process asked for.
type tracedSync struct {
	at     time.Duration // since 1970
	call   string        // with the file, as strace shows it
	failed bool
}

// syncsSeen returns what the process asked for, in order, and when it ended; 0 when it did not.
func (t *tracer) syncsSeen() (list []tracedSync, ended time.Duration, err error) {
	b, err := os.ReadFile(t.path)
	if err != nil {
		return nil, 0, fmt.Errorf("read what strace saw: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		// 12345 1764190000.123456 fdatasync(9</data/raft/x.wal>) = -1 EIO (Input/output error) (INJECTED)
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(fields) < 3 {
			continue
		}
		at, err := time.ParseDuration(fields[1] + "s")
		if err != nil {
			continue
		}
		call := strings.TrimSpace(fields[2])
		name, _, _ := strings.Cut(call, "(")
		switch {
		case name == "exit_group" || strings.HasPrefix(call, "+++ exited"):
			if ended == 0 {
				ended = at
			}
		case strings.Contains(","+syncs+",", ","+name+","):
			list = append(list, tracedSync{at: at, call: call, failed: strings.Contains(call, "EIO")})
		}
	}
	return list, ended, nil
}

// threadsOf returns the states of a process' threads, as proc(5) names them.
func threadsOf(pid int) ([]byte, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var states []byte
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		if at := bytes.LastIndexByte(b, ')'); at >= 0 && at+2 < len(b) {
			states = append(states, b[at+2])
		}
	}
	return states, nil
}
