package agent

import (
	"net"
	"os"
	"runtime"
	"strings"

	"github.com/triward/triward/agent/sender"
)

// maxIPs bounds the addresses told to the cluster.
const maxIPs = 32

// DescribeHost says on what machine the agent runs.
func DescribeHost(version string) sender.Host {
	h := sender.Host{OS: runtime.GOOS, Arch: runtime.GOARCH, Version: version, IPs: hostIPs(), MachineID: machineID()}
	if name, err := os.Hostname(); err == nil {
		h.Hostname = name
	}
	if pretty := osRelease("PRETTY_NAME"); pretty != "" {
		h.OS = pretty
	}
	return h
}

func machineID() string {
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(b) > 128 {
		return ""
	}
	id := strings.TrimSpace(string(b))
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return "" // "uninitialized", in an image that was never booted
	}
	return id
}

func osRelease(key string) string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

func hostIPs() []string {
	out := []string{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return out
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast() || len(out) >= maxIPs {
			continue
		}
		out = append(out, n.IP.String())
	}
	return out
}

// Inventory is what a heartbeat tells of the machine.
type Inventory struct {
	Hostname string   `json:"hostname"`
	OS       string   `json:"os"`
	Arch     string   `json:"arch"`
	Kernel   string   `json:"kernel,omitempty"`
	Cores    int      `json:"cores"`
	IPs      []string `json:"ips"`
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
