package appliance

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ConfigProblem is one thing that is wrong with a configuration.
type ConfigProblem struct {
	Path    string // the key, such as listen.http.address; empty when it is the file itself
	Line    int    // 0 when the key is not in the file
	Message string
}

// ConfigError lists everything that is wrong with a configuration.
type ConfigError struct {
	Source   string
	Problems []ConfigProblem
}

// Error returns one line for each problem.
func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Source)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
		if p.Path != "" {
			b.WriteString(p.Path + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

// strictDecoder decodes YAML into a struct and gathers every problem instead of stopping at the first.
type strictDecoder struct {
	lines    map[string]int
	problems []ConfigProblem
}

func decodeStrict(body []byte, into any) *strictDecoder {
	d := &strictDecoder{lines: make(map[string]int)}
	var doc yaml.Node
	if err := yaml.Unmarshal(body, &doc); err != nil {
		d.add("", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return d
	}
	if doc.Kind == 0 || len(doc.Content) == 0 { // an empty file: all defaults
		return d
	}
	d.value("", doc.Content[0], reflect.ValueOf(into).Elem())
	return d
}

func (d *strictDecoder) add(path, format string, args ...any) {
	d.problems = append(d.problems, ConfigProblem{Path: path, Line: d.lines[path], Message: fmt.Sprintf(format, args...)})
}

func (d *strictDecoder) sorted() []ConfigProblem {
	slices.SortStableFunc(d.problems, func(a, b ConfigProblem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Path, b.Path))
	})
	return d.problems
}

func (d *strictDecoder) value(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.AliasNode {
		d.lines[path] = n.Line
		d.add(path, "anchors and aliases are not used here")
		return
	}
	if v.Kind() == reflect.Struct {
		d.structure(path, n, v)
		return
	}
	// What a key is set to takes the place of the default whole: a list never grows onto it.
	fresh := reflect.New(v.Type())
	if err := n.Decode(fresh.Interface()); err != nil {
		d.lines[path] = n.Line
		d.add(path, "%s", plainYAMLError(err))
		return
	}
	v.Set(fresh.Elem())
}

func (d *strictDecoder) structure(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.lines[path] = n.Line
		d.add(path, "want keys and values here (%s)", strings.Join(keysOf(v.Type()), ", "))
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		sub := joinPath(path, key.Value)
		if line, twice := seen[key.Value]; twice {
			d.lines[sub] = key.Line
			d.add(sub, "is set twice, before on line %d", line)
			continue
		}
		seen[key.Value] = key.Line
		d.lines[sub] = key.Line
		field, ok := fieldOf(v, key.Value)
		if !ok {
			d.add(sub, "unknown key; known here: %s", strings.Join(keysOf(v.Type()), ", "))
			continue
		}
		d.value(sub, value, field)
	}
}

func joinPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if yamlKey(v.Type().Field(i)) == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, yamlKey(t.Field(i)))
	}
	return keys
}

func yamlKey(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

// plainYAMLError says what the YAML library says without the names of Go types.
func plainYAMLError(err error) string {
	te, ok := errors.AsType[*yaml.TypeError](err)
	if !ok || len(te.Errors) == 0 {
		return strings.TrimPrefix(err.Error(), "yaml: ")
	}
	text := te.Errors[0]
	if _, after, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(text, "line ") {
		text = after
	}
	text = strings.TrimPrefix(text, "cannot unmarshal ")
	value, kind, ok := strings.Cut(text, " into ")
	if !ok {
		return text
	}
	names := map[string]string{"int": "a whole number", "bool": "true or false", "[]string": "a list of texts", "string": "a text"}
	if name, known := names[kind]; known {
		kind = name
	}
	_, value, _ = strings.Cut(value, " ")
	return fmt.Sprintf("%s: want %s", strings.ReplaceAll(value, "`", "\""), kind)
}

// Duration is a time span written as 30s, 5m, 12h or 7d, or several of them together.
type Duration time.Duration

// UnmarshalYAML reads a span.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := parseSpan(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return fmt.Errorf("%q: want a time span such as 30s, 5m, 12h or 7d", n.Value)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes the form that UnmarshalYAML reads.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// String returns the shortest form, with days.
func (d Duration) String() string {
	v := time.Duration(d)
	if v >= day && v%day == 0 {
		return strconv.FormatInt(int64(v/day), 10) + "d"
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func parseSpan(s string) (time.Duration, error) {
	var days time.Duration
	if num, rest, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(num, 10, 16)
		if err != nil {
			return 0, err
		}
		days, s = time.Duration(n)*day, rest
		if s == "" {
			return days, nil
		}
	}
	v, err := time.ParseDuration(s)
	if err == nil && v < 0 {
		err = errors.New("negative")
	}
	return days + v, err
}

// Size is a number of bytes written as 512KiB, 64MiB or 4GiB, or as a plain number.
type Size int64

var sizeUnits = []struct {
	name string
	n    Size
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalYAML reads a size.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	v, ok := parseSize(n.Value)
	if n.Kind != yaml.ScalarNode || !ok {
		return fmt.Errorf("%q: want a size such as 512KiB, 64MiB or 4GiB", n.Value)
	}
	*s = v
	return nil
}

func parseSize(text string) (Size, bool) {
	unit := Size(1)
	for _, u := range sizeUnits {
		if num, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = strings.TrimSpace(num), u.n
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/int64(unit) {
		return 0, false
	}
	return Size(n) * unit, true
}

// MarshalYAML writes the form that UnmarshalYAML reads.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// String returns the size in the greatest unit that leaves a whole number.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s >= u.n && s%u.n == 0 {
			return strconv.FormatInt(int64(s/u.n), 10) + u.name
		}
	}
	return "0"
}
