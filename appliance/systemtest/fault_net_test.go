package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The bench runs in a network namespace of its own, which is the switch: a bridge with one port for each machine, whose
// end is in a namespace of that machine. The harness itself sits on the bridge. Nothing of it has a name outside, and all
// of it is gone with the last process that is in it, however it ends.
const (
	switchName = "tw0"
	switchAddr = "10.77.0.1"
	switchMask = "/24"
)

// place is a machine of the bench's network.
type place struct {
	name, addr string
	port       string   // its port of the switch
	ns         *os.File // its network namespace
}

// network is the switch, its machines and what of it is cut.
type network struct {
	mu     sync.Mutex
	places []*place

	seen    int64 // frames that were lost by the end of the last cut
	dropped int64 // those that the last cut, which is over, has lost
}

const netRules = `
table bridge tw {
	set cut { type ifname . ifname; }
	set deaf { type ifname; }
	set mute { type ifname; }
	chain forward { type filter hook forward priority 0; policy accept; iifname . oifname @cut counter drop; }
	chain input { type filter hook input priority 0; policy accept; iifname @deaf counter drop; }
	chain output { type filter hook output priority 0; policy accept; oifname @mute counter drop; }
}
`

// newNetwork makes the switch in the network namespace that this process is in.
func newNetwork(ctx context.Context) (*network, error) {
	n := new(network)
	err := errors.Join(
		command(ctx, "", nil, "ip", "link", "add", switchName, "type", "bridge", "mcast_snooping", "0"),
		command(ctx, "", nil, "ip", "addr", "add", switchAddr+switchMask, "dev", switchName),
		command(ctx, "", nil, "ip", "link", "set", switchName, "up"),
		command(ctx, netRules, nil, "nft", "-f", "-"),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the switch: %w", err), n.close(ctx))
	}
	return n, nil
}

// close takes the switch and all machines down. It may be called again.
func (n *network) close(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.places {
		_ = command(ctx, "", nil, "ip", "link", "del", p.port)
		_ = p.ns.Close()
	}
	n.places = nil
	_ = command(ctx, "", nil, "nft", "delete", "table", "bridge", "tw")
	_ = command(ctx, "", nil, "ip", "link", "del", switchName)
	return nil
}

// add connects a new machine to the switch.
func (n *network) add(ctx context.Context, name string) (*place, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := len(n.places) + 1
	p := &place{name: name, addr: fmt.Sprintf("10.77.0.%d", 10+i), port: fmt.Sprintf("tw%d", i)}
	ns, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make the network of %s: %w", name, err)
	}
	p.ns = ns
	n.places = append(n.places, p)
	err = command(ctx, "", ns, "ip", "link", "add", p.port, "type", "veth", "peer", "name", "eth0", "netns", "/proc/self/fd/3")
	if err == nil {
		err = command(ctx, "", nil, "ip", "link", "set", p.port, "master", switchName, "up")
	}
	if err == nil {
		err = p.within(func() error {
			return errors.Join(
				command(ctx, "", nil, "ip", "link", "set", "lo", "up"),
				command(ctx, "", nil, "ip", "addr", "add", p.addr+switchMask, "dev", "eth0"),
				command(ctx, "", nil, "ip", "link", "set", "eth0", "up"),
			)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	return p, nil
}

// command runs a program with input, passing it a file as number 3.
func command(ctx context.Context, input string, file *os.File, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// newNamespace makes a network namespace and returns the file that keeps it.
func newNamespace() (*os.File, error) {
	var ns *os.File
	err := elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// within runs fn on a thread that is in the machine's network: processes that it starts and sockets that it makes, in fn
// itself, are the machine's.
func (p *place) within(fn func() error) error {
	return elsewhere(func() error { return unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWNET) }, fn)
}

// elsewhere runs fn after enter on a thread that comes back afterwards. One that cannot ends with its goroutine.
func elsewhere(enter, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if err := enter(); err != nil {
			done <- err
			return
		}
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, back)
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// dial connects as a program of the machine would.
func (p *place) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = p.within(func() (err error) {
		conn, err = (&net.Dialer{FallbackDelay: -1, Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// cut lets no frame from a to b through any more. nil is the harness.
func (n *network) cut(ctx context.Context, a, b *place) error { return n.element(ctx, "add", a, b) }

// heal ends every cut, and finds how many frames were lost since the last time.
func (n *network) heal(ctx context.Context) error {
	if err := command(ctx, "flush set bridge tw cut\nflush set bridge tw deaf\nflush set bridge tw mute\n", nil, "nft", "-f", "-"); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "nft", "list", "table", "bridge", "tw").Output()
	if err != nil {
		return fmt.Errorf("count what was cut: %w", err)
	}
	total := int64(0)
	for _, m := range lostFrames.FindAllSubmatch(out, -1) {
		frames, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			return fmt.Errorf("count what was cut: %w", err)
		}
		total += frames
	}
	n.seen, n.dropped = total, total-n.seen
	return nil
}

// lostFrames are the counters of the rules in what nft lists.
var lostFrames = regexp.MustCompile(`counter packets (\d+) `)

// heal ends every cut, which must have kept something from coming.
func (tr *trial) heal(ctx context.Context) error {
	if err := tr.net.heal(ctx); err != nil {
		return err
	}
	tr.mended()
	if tr.net.dropped == 0 {
		return errors.New("the cut kept nothing from coming: it was no fault")
	}
	return nil
}

// isolate cuts both ways between each of one side and each of the other.
func (n *network) isolate(ctx context.Context, side, other []*place) error {
	var all strings.Builder
	for _, a := range side {
		for _, b := range other {
			all.WriteString(rule("add", a, b) + rule("add", b, a))
		}
	}
	return command(ctx, all.String(), nil, "nft", "-f", "-")
}

func (n *network) element(ctx context.Context, verb string, a, b *place) error {
	return command(ctx, rule(verb, a, b), nil, "nft", "-f", "-")
}

func rule(verb string, a, b *place) string {
	switch {
	case a == nil:
		return fmt.Sprintf("%s element bridge tw mute { %q }\n", verb, b.port)
	case b == nil:
		return fmt.Sprintf("%s element bridge tw deaf { %q }\n", verb, a.port)
	}
	return fmt.Sprintf("%s element bridge tw cut { %q . %q }\n", verb, a.port, b.port)
}

// netTools says what the network lacks here, nil when it can be made.
func netTools() error {
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed (apt-get install iproute2 nftables)", tool)
		}
	}
	if os.Getenv(inBench) == "" {
		return fmt.Errorf("this user gets no network namespace of its own: %w", errMachine)
	}
	return bridgeWorks()
}

// inBench is set in the process that runs the bench in namespaces of its own.
const inBench = "TRIWARD_BENCH_INSIDE"

// benchFlags are the namespaces that the bench runs in. Mounts of a row are gone with them.
const benchFlags = unix.CLONE_NEWNET | unix.CLONE_NEWNS

// benchAttr makes namespaces for a child; one that is not root's gets a user namespace too.
func benchAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: benchFlags, Pdeathsig: syscall.SIGTERM}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}
