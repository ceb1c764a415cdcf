package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// stopPatience is how long children may take to end before they are killed.
const stopPatience = 20 * time.Second

// children are the processes that `triward dev` started. They end with it, whatever becomes of it.
type children struct {
	report io.Writer
	ended  chan string // names of children that ended; never blocks

	mu       sync.Mutex
	list     []*child
	stopping bool
}

type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

func newChildren(report io.Writer) *children {
	return &children{report: report, ended: make(chan string, 2*maxDevNodes)}
}

// start runs a program. The caller's thread must live as long as the child: the child gets SIGTERM when it ends.
func (k *children) start(name string, logTo *os.File, program string, args ...string) (int, error) {
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = logTo, logTo
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	if logTo != os.Stderr {
		_ = logTo.Close()
	}
	c := &child{name: name, cmd: cmd, done: make(chan struct{})}
	k.mu.Lock()
	k.list = append(k.list, c)
	k.mu.Unlock()
	go k.wait(c)
	return cmd.Process.Pid, nil
}

func (k *children) wait(c *child) {
	err := c.cmd.Wait()
	k.mu.Lock()
	quiet := k.stopping
	k.mu.Unlock()
	if !quiet {
		fmt.Fprintf(k.report, "triward: %s (pid %d) ended: %v\n", c.name, c.cmd.Process.Pid, c.cmd.ProcessState)
		_ = err // the state says it all
	}
	select {
	case k.ended <- c.name:
	default:
	}
	close(c.done)
}

// watch waits until ctx ends. Children that end meanwhile stay down.
func (k *children) watch(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// stop ends all children and waits for them.
func (k *children) stop() {
	k.mu.Lock()
	k.stopping = true
	list := k.list
	k.mu.Unlock()
	for i := len(list) - 1; i >= 0; i-- { // the agent first, so that its last batches find a cluster
		_ = list[i].cmd.Process.Signal(syscall.SIGTERM)
	}
	patience := time.After(stopPatience)
	for _, c := range list {
		select {
		case <-c.done:
		case <-patience:
			for _, late := range list {
				_ = late.cmd.Process.Kill()
			}
			<-c.done
		}
	}
}
