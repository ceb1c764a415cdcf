//go:build unix && !linux

package cli

import "syscall"

// childAttributes gives a child a process group of its own, so that Ctrl-C reaches us alone.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
