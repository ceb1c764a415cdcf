package collect

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestNode reads this machine under node_exporter's own names.
func TestNode(t *testing.T) {
	if _, err := NewNode(NodeOptions{Enable: []string{"no-such"}}); err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Errorf("unknown collector: %v", err)
	}
	c, err := NewNode(NodeOptions{Disable: []string{"netclass"}})
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	b := newBook()
	s, _, err := NewFlattener(b).Flatten(1, families)
	if err != nil || len(s.IDs) < 100 {
		t.Fatalf("%d samples: %v", len(s.IDs), err)
	}
	names := map[string]bool{}
	for _, l := range b.labels {
		names[l.Get("__name__")] = true
	}
	for _, want := range []string{
		"node_cpu_seconds_total", "node_memory_MemAvailable_bytes", "node_load1",
		"node_filesystem_avail_bytes", "node_network_receive_bytes_total", "node_uname_info", "node_boot_time_seconds",
	} {
		if !names[want] {
			t.Errorf("%s is missing", want)
		}
	}
	if names["node_textfile_scrape_error"] {
		t.Error("the textfile collector runs")
	}
	if _, err := NewNode(NodeOptions{Disable: []string{"netclass", "arp"}}); err == nil {
		t.Error("collectors were set up anew with other options")
	}
}
