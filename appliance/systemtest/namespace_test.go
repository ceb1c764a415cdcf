package systemtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespace is set for a test that runs in namespaces of its own.
const inNamespace = "TRIWARD_TEST_IN_NAMESPACE"

// notPossible is how the test's process ends there when it may not do there either what it needs.
const notPossible = 77

// here reports whether the test goes on in this process, which has done what prepare does. Otherwise the test runs again
// in a user namespace and those that flags name, where any user may do that, and this one reports how it went. A
// kernel that gives out no such namespaces leaves the test undone, which is said.
func here(t *testing.T, flags uintptr, prepare func() error) bool {
	t.Helper()
	err := prepare()
	if err == nil {
		return true
	}
	if os.Getenv(inNamespace) != "" {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(notPossible)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	if end, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(end).String())
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil && strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Logf("ran in namespaces of its own:\n%s", out)
	case err == nil || exited && exit.ExitCode() != notPossible:
		t.Errorf("in namespaces of its own: %v\n%s", err, out)
	default:
		t.Logf("NOT RUN: this user gets no namespaces: %v\n%s", err, out)
	}
	return false
}

// mayMount reports whether the test goes on in this process, which may mount file systems.
func mayMount(t *testing.T) bool {
	t.Helper()
	at := t.TempDir()
	return here(t, unix.CLONE_NEWNS, func() error {
		if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=65536"); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
		return unix.Unmount(at, 0)
	})
}

// isCutOff reports whether the test goes on in this process, whose machine has no network but itself.
func isCutOff(t *testing.T) bool {
	t.Helper()
	return here(t, unix.CLONE_NEWNET, func() error {
		if os.Getenv(inNamespace) == "" {
			return errors.New("this is the machine's own network")
		}
		return loopbackUp()
	})
}

// loopbackUp makes this machine reach itself, in a network namespace that is new.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
