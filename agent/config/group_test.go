package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func group(t *testing.T, body string) *Group {
	t.Helper()
	g, err := ParseGroup([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Every key that a group may set arrives at an agent that leaves it to the cluster, and none is forgotten in the table.
func TestEveryKeyOfAGroupIsMerged(t *testing.T) {
	body := `
heartbeat: {period: 7s}
metrics: {enabled: false, period: 9s, exclude: [a.*], collectors: {enable: [systemd], disable: [arp]}}
logs: {enabled: false, files: [{include: [/var/log/x.log]}]}
journal: {enabled: "false", units: [a.service], priority: err, drop: [d], keep: [k]}
`
	local := Default()
	merged, own, err := local.Merge(group(t, body))
	if err != nil || len(own) > 0 {
		t.Fatalf("%q %v", own, err)
	}
	for _, s := range settings {
		if same(s.get(&merged), s.get(&local)) {
			t.Errorf("%s is as before", s.key)
		}
	}
	leaves := 0
	var count func(reflect.Type)
	count = func(typ reflect.Type) {
		for i := range typ.NumField() {
			if f := typ.Field(i).Type; f.Kind() == reflect.Struct {
				count(f)
			} else {
				leaves++
			}
		}
	}
	count(reflect.TypeFor[Group]())
	if leaves != len(settings) {
		t.Errorf("a group has %d keys, the table %d", leaves, len(settings))
	}
	if merged.Metrics.Period != 9*time.Second || len(merged.Logs.Files[0].within) == 0 || len(local.Logs.Files[0].within) > 0 {
		t.Errorf("merged %+v", merged)
	}
}

// The file that packages bring names every key with its default: that must not count as the host's own word.
func TestShippedFileLeavesAllToTheCluster(t *testing.T) {
	b, err := os.ReadFile("../../packaging/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	_, own, err := c.Merge(group(t, "metrics: {period: 9s, exclude: [x], collectors: {enable: [systemd]}}\nlogs: {files: [{include: [/var/log/x]}]}\njournal: {units: [a]}\n"))
	if err != nil || len(own) > 0 {
		t.Errorf("the host keeps %q: %v", own, err)
	}
}

func TestFilesOfTheClusterStayWithin(t *testing.T) {
	for _, tc := range []struct {
		allowed []string
		include string
		ok      bool
	}{
		{[]string{"/var/log"}, "/var/log/*.log", true},
		{[]string{"/var/log/"}, "/var/log/**/x", true},
		{[]string{"/var/log"}, "/var/log", true},
		{[]string{"/var/log"}, "/var/logs/x", false},
		{[]string{"/var/log"}, "/var/*/x", false},
		{[]string{"/var/log"}, "/{var/log,etc}/shadow", false},
		{[]string{"/var/log"}, "/var/{log,lib}/x", false},
		{[]string{"/srv/app/app.log"}, "/srv/app/app.log", true},
		{[]string{"/srv/app/app.log"}, "/srv/app/*", false},
		{[]string{"/"}, "/etc/x", true},
		{nil, "/var/log/x", false},
	} {
		c := Default()
		c.Remote.Files = tc.allowed
		body, err := yaml.Marshal(map[string]any{"logs": map[string]any{"files": []any{map[string]any{"include": []string{"/var/log/fine", tc.include}}}}})
		if err != nil {
			t.Fatal(err)
		}
		c.Remote.Files = append(c.Remote.Files, "/var/log/fine")
		_, _, err = c.Merge(group(t, string(body)))
		if (err == nil) != tc.ok || err != nil && !strings.Contains(err.Error(), "logs.files[0].include[1]: ") {
			t.Errorf("%s within %q: %v", tc.include, tc.allowed, err)
		}
	}
}

// A short text that names very many files by aliases is refused before they are looked at.
func TestNamesOfAGroupAreBounded(t *testing.T) {
	text := "logs: {files: [&a {include: [/var/log/x, /var/log/y]}" + strings.Repeat(", *a", 10_000) + "]}\n"
	if _, err := ParseGroup([]byte(text)); err == nil || !strings.Contains(err.Error(), "20002 files") {
		t.Errorf("%d bytes with %v", len(text), err)
	}
	group(t, "logs: {files: [&a {include: [/var/log/x, /var/log/y]}"+strings.Repeat(", *a", 999)+"]}\n")
}

func TestRemoteIsChecked(t *testing.T) {
	_, err := Parse([]byte("remote: {files: [logs, '/var/*'], keep: [metrics, nothing, metrics.perio]}\nheartbeat: {period: 31s}\njournal: {priority: loud, keep: ['(']}\n"))
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, want := range []string{"remote.files[0]", "remote.files[1]", "remote.keep[1]", "remote.keep[2]", "heartbeat.period", "journal.priority", "journal.keep[0]"} {
		if !strings.Contains(err.Error(), want+": ") {
			t.Errorf("%s is not named in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "remote.keep[0]") {
		t.Errorf("a part may be kept: %v", err)
	}
	c, err := Parse([]byte("remote: {keep: [journal]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, own, _ := c.Merge(group(t, "journal: {units: [a], enabled: \"true\"}\n")); len(own) != 2 {
		t.Errorf("kept are %q", own)
	}
}

func FuzzParseGroup(f *testing.F) {
	f.Add([]byte("logs: {files: [{include: [/var/log/x]}]}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGroup(b)
		if err != nil {
			return
		}
		c := Default()
		merged, _, err := c.Merge(g)
		if err != nil {
			return
		}
		if err := merged.check(); err != nil {
			t.Errorf("what was merged is not good: %v", err)
		}
		merged.Logs.Groups()
		merged.Metrics.ExcludeMetrics()
	})
}
