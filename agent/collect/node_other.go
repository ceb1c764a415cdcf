//go:build !linux

package collect

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// NodeOptions chooses among node_exporter's collectors, which exist on Linux only.
type NodeOptions struct {
	Enable  []string
	Disable []string
	ProcFS  string
	SysFS   string
	RootFS  string
	Log     *slog.Logger
}

// KnownCollector reports false: there are no node collectors on this system yet.
func KnownCollector(string) bool { return false }

// NewNode returns nil: there are no node collectors on this system yet; the agent's own metrics and logs work.
func NewNode(NodeOptions) (prometheus.Collector, error) { return nil, nil }
