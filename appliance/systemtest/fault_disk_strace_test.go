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
	gone func() // ends what watches over it
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
	ended := make(chan struct{})
	t.gone = func() { close(ended) }
	go letEndedGo(t.cmd.Process, ended, pid)
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
	t.gone()
	t.cmd = nil
	return nil
}

// letEndedGo kills strace when the process has ended and strace does not see it: it loses threads that end while it
// attaches to them, and then waits for ever, and whoever started the process with it.
func letEndedGo(strace *os.Process, ended <-chan struct{}, pid int) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for zombie := 0; zombie < 3; {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return
		}
		if zombie++; !bytes.Contains(status, []byte("\nState:\tZ")) {
			zombie = 0
		}
	}
	_ = strace.Kill()
}

// tracedSync is a sync that the process asked for.
type tracedSync struct {
	at     time.Duration // since 1970
	call   string        // as strace shows it
	file   string        // its path; whatever descriptor and call it is synced by
	failed bool
}

// syncsSeen returns what the process asked for, in order, and when it ended; 0 when it did not.
func (t *tracer) syncsSeen() (list []tracedSync, ended time.Duration, err error) {
	b, err := os.ReadFile(t.path)
	if err != nil {
		return nil, 0, fmt.Errorf("read what strace saw: %w", err)
	}
	under := make(map[string]string) // the call that a thread is in
	for line := range strings.Lines(string(b)) {
		// 12345 1764190000.123456 fdatasync(9</data/raft/x.wal>) = -1 EIO (Input/output error) (INJECTED)
		// 12345 1764190000.123456 fdatasync(9</data/raft/x.wal> <unfinished ...>
		// 12345 1764190000.124456 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
		thread, rest, _ := strings.Cut(strings.TrimSpace(line), " ") // a small number of a process is padded
		stamp, call, _ := strings.Cut(strings.TrimSpace(rest), " ")
		at, err := time.ParseDuration(stamp + "s")
		if err != nil {
			continue
		}
		call = strings.TrimSpace(call)
		if begun, ok := strings.CutSuffix(call, "<unfinished ...>"); ok {
			under[thread] = begun
			if !strings.HasPrefix(call, "exit_group") {
				continue
			}
		} else if _, end, ok := strings.Cut(call, " resumed>"); ok && strings.HasPrefix(call, "<... ") {
			call = under[thread] + end
			delete(under, thread)
		}
		name, _, _ := strings.Cut(call, "(")
		switch {
		case name == "exit_group" || strings.HasPrefix(call, "+++ exited"):
			if ended == 0 {
				ended = at
			}
		case strings.Contains(","+syncs+",", ","+name+","):
			_, file, _ := strings.Cut(call, "<")
			file, _, _ = strings.Cut(file, ">")
			list = append(list, tracedSync{at: at, call: call, file: file, failed: strings.Contains(call, "EIO")})
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
