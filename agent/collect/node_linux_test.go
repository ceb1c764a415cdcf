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
	if _, err := NewNode(NodeOptions{ProcFS: "/nowhere"}); err == nil {
		t.Error("collectors were set up anew with other paths")
	}
	all := make([]string, 0, len(parseFlags().all))
	for _, f := range parseFlags().all {
		all = append(all, f.name)
	}
	if c, err := NewNode(NodeOptions{Disable: all}); c != nil || err != nil {
		t.Errorf("with everything disabled: %v, %v", c, err)
	}
}

// Which collectors run is chosen anew each time: the cluster may change it while the agent runs.
func TestCollectorsAreChosenAnew(t *testing.T) {
	has := func(opt NodeOptions, prefix string) bool {
		c, err := NewNode(opt)
		if err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		reg.MustRegister(c)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), prefix) {
				return true
			}
		}
		return false
	}
	for range 2 {
		if has(NodeOptions{Disable: []string{"loadavg"}}, "node_load1") || !has(NodeOptions{}, "node_load1") {
			t.Error("loadavg does not follow the options")
		}
		if !has(NodeOptions{Enable: []string{"softnet"}}, "node_softnet") || has(NodeOptions{}, "node_softnet") {
			t.Error("softnet does not follow the options")
		}
	}
}
