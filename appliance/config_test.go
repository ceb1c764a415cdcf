package appliance

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The shipped file spells out every key with its default.
func TestShippedFileIsTheDefaults(t *testing.T) {
	body, err := os.ReadFile("../packaging/triward.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cfg Config // from nothing: a key that is missing in the file would stay zero
	d := decodeStrict(body, &cfg)
	if len(d.problems) > 0 {
		t.Fatalf("problems in the shipped file: %v", d.problems)
	}
	if want := DefaultConfig(); !reflect.DeepEqual(cfg, want) {
		t.Errorf("the shipped file differs from the defaults:\nfile    %+v\ndefault %+v", cfg, want)
	}
	checkKeys(t, d, "", reflect.TypeFor[Config]())
}

func checkKeys(t *testing.T, d *strictDecoder, path string, typ reflect.Type) {
	for i := range typ.NumField() {
		key := joinPath(path, yamlKey(typ.Field(i)))
		if d.lines[key] == 0 {
			t.Errorf("%s is not in the shipped file", key)
		}
		if typ.Field(i).Type.Kind() == reflect.Struct {
			checkKeys(t, d, key, typ.Field(i).Type)
		}
	}
}

// Every key is described.
func TestEveryKeyIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		for i := range typ.NumField() {
			key := joinPath(path, yamlKey(typ.Field(i)))
			if typ.Field(i).Type.Kind() == reflect.Struct {
				walk(key, typ.Field(i).Type)
			} else if !strings.Contains(string(doc), "`"+key+"`") {
				t.Errorf("docs/configuration.md does not describe `%s`", key)
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
}

func TestConfigReportsEveryProblemAtOnce(t *testing.T) {
	body := `node_id: "Not Good"
data_dir: relative
listen:
  http:
    address: 0.0.0.0:8443
    plain_http: true
    colour: red
  agents:
    timeout: soon
    max_connections: many
    max_connections: 5
queue:
  retention:
    bytes: 1KiB
unknown: 1
`
	_, err := ParseConfig("triward.yaml", []byte(body))
	ce, ok := errors.AsType[*ConfigError](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	want := []string{
		"triward.yaml:1: node_id: ",
		"triward.yaml:2: data_dir: \"relative\" is no absolute path",
		"triward.yaml:6: listen.http.plain_http: is allowed on loopback only",
		"triward.yaml:7: listen.http.colour: unknown key; known here: address, url",
		"triward.yaml:9: listen.agents.timeout: \"soon\": want a time span",
		"triward.yaml:10: listen.agents.max_connections: ",
		"is set twice, before on line 10",
		"triward.yaml:14: queue.retention.bytes: 1KiB is out of range: 1MiB to",
		"triward.yaml:15: unknown: unknown key; known here: node_id, data_dir",
	}
	text := ce.Error()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in\n%s", w, text)
		}
	}
	if strings.Contains(text, "appliance.") || strings.Contains(text, "into int") {
		t.Errorf("names of Go types in\n%s", text)
	}
}

func TestConfigDefaultsStayWhereTheFileIsSilent(t *testing.T) {
	cfg, err := ParseConfig("t", []byte("listen:\n  http:\n    address: 127.0.0.1:9\n    plain_http: true\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Listen.HTTP.Address, want.Listen.HTTP.PlainHTTP = "127.0.0.1:9", true
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v", cfg)
	}
	if empty, err := ParseConfig("t", nil); err != nil || !reflect.DeepEqual(empty, DefaultConfig()) {
		t.Errorf("empty file: %v", err)
	}
}

func TestConfigWrittenIsReadBack(t *testing.T) {
	want := DefaultConfig()
	want.NodeID, want.Listen.HTTP.Origins = "n1", []string{"https://monitor.example:8443"}
	body, err := yaml.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig("t", body)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%s", err, body)
	}
}

func TestHostNamesAreWrittenSmall(t *testing.T) {
	for _, c := range [][3]string{
		{"Node1.Example", ":8443", "node1.example:8443"},
		{"Node1", "0.0.0.0:8001", "node1:8001"},
		{"Node1", "[::]:8001", "node1:8001"},
		{"Node1", "Monitor.Example:8002", "monitor.example:8002"},
		{"Node1", "[2001:DB8::1]:8002", "[2001:db8::1]:8002"},
	} {
		if got := reached(c[0], c[1]); got != c[2] {
			t.Errorf("%s on %s: %s, want %s", c[1], c[0], got, c[2])
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("node_id: a\nlisten: {agents: {timeout: 3s}}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("listen: 7\nqueue: [1]\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		cfg, err := ParseConfig("f", body)
		if err == nil && cfg.Validate() != nil {
			t.Error("accepted what Validate refuses")
		}
	})
}
