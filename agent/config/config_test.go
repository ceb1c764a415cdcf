package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestEmptyIsDefault(t *testing.T) {
	c, err := Parse(nil)
	if err != nil || c.Metrics.Period != 15*time.Second || c.SpoolDir() != "/var/lib/triward-agent/spool" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), true); err != nil {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), false); err == nil {
		t.Error("a file that was asked for may be missing")
	}
}

func TestFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(`
data_dir: /tmp/x
servers: ["https://n1:8001", "https://n2:8001"]
spool: {max_bytes: 64MiB}
metrics: {period: 5s, collectors: {enable: [systemd], disable: [arp]}, exclude: ["node_netstat_.*"]}
logs:
  files:
    - include: [/srv/app/*.log]
      exclude: ["*debug*"]
      multiline: {start: '^\d{4}-', timeout: 3s}
      drop: [healthz]
      labels: {app: shop}
journal: {enabled: "false", units: [ssh.service]}
status: {listen: "0"}
log: {level: debug, format: json}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, false)
	if err != nil {
		t.Fatal(err)
	}
	g := c.Logs.Groups()
	if c.Spool.MaxBytes != 64<<20 || len(g) != 1 || g[0].Multiline.Start == nil || g[0].Labels.Get("app") != "shop" ||
		!c.Metrics.ExcludeMetrics().MatchString("node_netstat_Tcp_InSegs") {
		t.Errorf("%+v", c)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := Parse([]byte(`
data_dir: relative
servers: [ "http://far:1", "n1:8001" ]
spool: {max_bytes: 5}
metrics: {period: 1ms, collectors: {enable: [nosuch]}, exclude: ["("]}
logs: {files: [{include: [], multiline: {}, labels: {host: x}, drop: ["("]}]}
journal: {enabled: maybe}
log: {level: loud, format: xml}
`))
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, key := range []string{
		"data_dir", "servers[0]", "servers[1]", "spool.max_bytes", "metrics.period",
		"metrics.collectors.enable[0]", "metrics.exclude[0]", "logs.files[0].include", "logs.files[0].multiline",
		"logs.files[0].labels.host", "logs.files[0].drop[0]", "journal.enabled", "log.level", "log.format",
	} {
		if !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not named in:\n%v", key, err)
		}
	}
}

func TestUnknownKeysHaveLines(t *testing.T) {
	_, err := Parse([]byte("metrics:\n  perod: 15s\nspoool: {}\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2") || !strings.Contains(err.Error(), "line 3") ||
		!strings.Contains(err.Error(), "perod") {
		t.Errorf("%v", err)
	}
	if _, err := Parse([]byte("spool: {max_bytes: 3 apples}\n")); err == nil || !strings.Contains(err.Error(), "apples") {
		t.Errorf("%v", err)
	}
	if _, err := Parse([]byte("a: [")); err == nil {
		t.Error("bad YAML was taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("spool: {max_bytes: 64MiB}\n"))
	f.Fuzz(func(t *testing.T, b []byte) { Parse(b) })
}

// The file that packages bring shows every key with its default.
func TestShippedFileIsTheDefaults(t *testing.T) {
	body, err := os.ReadFile("../../packaging/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c Config // from nothing: a key that is missing in the file would stay zero
	dec := yaml.NewDecoder(bytes.NewReader(body))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if err := c.check(); err != nil {
		t.Error(err)
	}
	got, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	want, err := yaml.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the shipped file says\n%s\nthe defaults are\n%s", got, want)
	}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			key, f := typ.Field(i).Tag.Get("yaml"), typ.Field(i).Type
			if !regexp.MustCompile(`\b` + key + `:`).Match(body) {
				t.Errorf("%s is not in the shipped file", key)
			}
			for f.Kind() == reflect.Slice || f.Kind() == reflect.Pointer {
				f = f.Elem()
			}
			if f.Kind() == reflect.Struct && f.Name() != "Multiline" {
				walk(f)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}
