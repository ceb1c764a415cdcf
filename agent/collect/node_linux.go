package collect

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/node_exporter/collector"
)

// NodeOptions chooses among node_exporter's collectors.
type NodeOptions struct {
	Enable  []string // besides the default set
	Disable []string
	ProcFS  string // "" is /proc
	SysFS   string // "" is /sys
	RootFS  string // "" is /
	Log     *slog.Logger
}

// offByDefault are collectors that node_exporter runs and we do not: textfile reads what others drop, the rest
// cost time on every scrape and say little on most machines.
var offByDefault = []string{
	"textfile", "nfs", "nfsd", "infiniband", "fibrechannel", "tapestats", "ipvs", "zfs",
	"xfs", "btrfs", "bcache", "bcachefs", "schedstat", "cpu_vulnerabilities", "softnet", "selinux", "rapl",
}

// onByDefault are collectors that node_exporter leaves off.
var onByDefault = []string{"processes"}

// node_exporter reads its options from flags of the process, which can be parsed only once.
var parseFlags = sync.OnceValue(func() *nodeFlags { return &nodeFlags{} })

type nodeFlags struct {
	mu     sync.Mutex
	parsed []string
}

func (f *nodeFlags) parse(args []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.parsed != nil {
		if slices.Equal(f.parsed, args) {
			return nil
		}
		return fmt.Errorf("collectors of this process were set up with other options before")
	}
	kingpin.CommandLine.Terminate(nil).UsageWriter(io.Discard).ErrorWriter(io.Discard)
	if _, err := kingpin.CommandLine.Parse(args); err != nil {
		return fmt.Errorf("set up collectors: %w", err)
	}
	f.parsed = args
	return nil
}

// KnownCollector reports whether node_exporter has a collector of that name.
func KnownCollector(name string) bool {
	return kingpin.CommandLine.GetFlag("collector."+name) != nil && !strings.Contains(name, ".")
}

// NewNode makes a collector of the machine's metrics. The options are set once for the process: a second call
// must have the same. A collector that cannot work here is left out and logged.
func NewNode(opt NodeOptions) (prometheus.Collector, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	for _, name := range append(slices.Clone(opt.Enable), opt.Disable...) {
		if !KnownCollector(name) {
			return nil, fmt.Errorf("unknown collector %q", name)
		}
	}
	if err := parseFlags().parse(nodeArgs(opt)); err != nil {
		return nil, err
	}
	nc, err := collector.NewNodeCollector(opt.Log)
	if err != nil {
		return nil, fmt.Errorf("make node collectors: %w", err)
	}
	return nc, nil
}

func nodeArgs(opt NodeOptions) []string {
	var args []string
	for flag, v := range map[string]string{"path.procfs": opt.ProcFS, "path.sysfs": opt.SysFS, "path.rootfs": opt.RootFS} {
		if v != "" {
			args = append(args, "--"+flag+"="+v)
		}
	}
	slices.Sort(args)
	on := map[string]bool{}
	for _, n := range onByDefault {
		on[n] = true
	}
	for _, n := range offByDefault {
		on[n] = false
	}
	for _, n := range opt.Enable {
		on[n] = true
	}
	for _, n := range opt.Disable {
		on[n] = false
	}
	names := make([]string, 0, len(on))
	for n := range on {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if kingpin.CommandLine.GetFlag("collector."+n) == nil {
			continue
		}
		if on[n] {
			args = append(args, "--collector."+n)
		} else {
			args = append(args, "--no-collector."+n)
		}
	}
	return args
}
