package cli

import "syscall"

// childAttributes gives a child a process group of its own, so that Ctrl-C reaches us alone, and SIGTERM when we
// are killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
