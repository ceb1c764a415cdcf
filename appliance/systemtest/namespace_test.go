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

// noMounts is how the test's process ends there when it may not mount there either.
const noMounts = 77

// mayMount reports whether the test goes on here, where file systems may be mounted. For a user who may not, the test
// runs again in a user and a mount namespace of its own, and this one reports how that went. A kernel that gives
// out no such namespaces leaves the test undone, which is said, and a failure where CI_STRICT is set.
func mayMount(t *testing.T) bool {
	t.Helper()
	at := t.TempDir()
	err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=65536")
	if err == nil {
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Getenv(inNamespace) != "" {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(noMounts)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	if end, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(end).String())
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil && strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Logf("ran in namespaces of its own:\n%s", out)
	case err == nil || exited && exit.ExitCode() != noMounts:
		t.Errorf("in namespaces of its own: %v\n%s", err, out)
	case os.Getenv("CI_STRICT") != "":
		t.Errorf("this user may neither mount nor make namespaces: %v\n%s", err, out)
	default:
		t.Logf("NOT RUN: this user may neither mount nor make namespaces: %v\n%s", err, out)
	}
	return false
}
