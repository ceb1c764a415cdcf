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
	all    []collectorFlag
}

// collectorFlag is a collector and whether node_exporter runs it unless told otherwise.
type collectorFlag struct {
	name     string
	standard bool
}

func (f *nodeFlags) parse(args []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.parsed != nil {
		if slices.Equal(f.parsed, args) {
			return nil
		}
		return fmt.Errorf("collectors of this process were set up with other paths before")
	}
	f.all = nil
	for _, fl := range kingpin.CommandLine.Model().Flags {
		if name, ok := strings.CutPrefix(fl.Name, "collector."); ok && KnownCollector(name) {
			f.all = append(f.all, collectorFlag{name, slices.Contains(fl.Default, "true")})
			args = append(args, "--collector."+name) // which of them run is chosen anew by each NewNode
		}
	}
	kingpin.CommandLine.Terminate(nil).UsageWriter(io.Discard).ErrorWriter(io.Discard)
	if _, err := kingpin.CommandLine.Parse(args); err != nil {
		return fmt.Errorf("set up collectors: %w", err)
	}
	f.parsed = args[:len(args)-len(f.all)]
	return nil
}

// wanted lists the collectors that the options choose.
func (f *nodeFlags) wanted(opt NodeOptions) []string {
	var names []string
	for _, c := range f.all {
		on := (c.standard && !slices.Contains(offByDefault, c.name) || slices.Contains(onByDefault, c.name) || slices.Contains(opt.Enable, c.name)) &&
			!slices.Contains(opt.Disable, c.name)
		if on {
			names = append(names, c.name)
		}
	}
	return names
}

// KnownCollector reports whether node_exporter has a collector of that name.
func KnownCollector(name string) bool {
	return kingpin.CommandLine.GetFlag("collector."+name) != nil && !strings.Contains(name, ".")
}

// NewNode makes a collector of the machine's metrics, nil when none is chosen. The paths are set once for the process: a
// second call must have the same. A collector that cannot work here is left out and logged.
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
	names := parseFlags().wanted(opt)
	if len(names) == 0 {
		return nil, nil
	}
	nc, err := collector.NewNodeCollector(opt.Log, names...)
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
	return args
}
