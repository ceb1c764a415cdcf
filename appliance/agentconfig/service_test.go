package agentconfig

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
)

var ada = By{"ada", "10.0.0.9"}

func put(t *testing.T, s *Service, group, body string, base uint64) Version {
	t.Helper()
	v, err := s.Put(t.Context(), group, Change{Body: body, Base: base, Note: "why"}, ada)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Every change is a version with its author, and its audit record is committed with it; the history is bounded.
func TestVersions(t *testing.T) {
	m := &authtest.Meta{}
	s := New(m)
	if v := s.For("web"); v.Version != 0 || v.Hash != "" {
		t.Errorf("before anything was set: %+v", v)
	}
	put(t, s, DefaultGroup, "metrics: {period: 30s}\n", 0)
	if v := s.For("web"); v.Group != DefaultGroup || v.Version != 1 {
		t.Errorf("a group without its own has %+v", v)
	}
	for i := range uint64(MaxHistory + 5) {
		put(t, s, "web", fmt.Sprintf("metrics: {period: %ds}\n", i+1), i)
	}
	v := s.For("web")
	if v.Version != MaxHistory+5 || v.Author != "ada" || v.Note != "why" || v.Hash != config.HashGroup([]byte(v.Body)) {
		t.Errorf("the newest is %+v", v)
	}
	h := s.History("web")
	if len(h) != MaxHistory || h[0].Version != MaxHistory+5 || h[MaxHistory-1].Version != 6 || len(m.Keys(BucketHistory)) != MaxHistory+1 {
		t.Errorf("%d versions are kept, %d to %d; keys %d", len(h), h[len(h)-1].Version, h[0].Version, len(m.Keys(BucketHistory)))
	}
	if _, err := s.Version("web", 5); !errors.Is(err, ErrNotFound) {
		t.Errorf("a version that is gone: %v", err)
	}
	back, err := s.Rollback(t.Context(), "web", 10, Change{Base: MaxHistory + 5}, ada)
	if err != nil || back.Version != MaxHistory+6 || back.From != 10 || back.Body != "metrics: {period: 10s}\n" {
		t.Errorf("rolled back to %+v: %v", back, err)
	}
	if _, err := s.Rollback(t.Context(), "web", 1, Change{Base: back.Version}, ada); !errors.Is(err, ErrNotFound) {
		t.Errorf("roll back to what is gone: %v", err)
	}
	last := m.Audited()[len(m.Audited())-1]
	if last.Action != "agents.config.rollback" || last.Actor != "ada" || last.Address != "10.0.0.9" || last.Target != "web" {
		t.Errorf("audited as %+v", last)
	}
	if err := s.Remove(t.Context(), "web", back.Version, ada); err != nil {
		t.Fatal(err)
	}
	if v := s.For("web"); v.Group != DefaultGroup || len(s.History("web")) != 0 || len(m.Keys(BucketHistory)) != 1 {
		t.Errorf("after it was removed: %+v, %q", v, m.Keys(BucketHistory))
	}
	if n := len(m.Audited()); n != 1+MaxHistory+5+1+1 {
		t.Errorf("%d changes are audited", n)
	}
}

// Of many who change the same version at once one does, whichever way they come.
func TestOneChangeWins(t *testing.T) {
	m := &authtest.Meta{}
	nodes := []*Service{New(m), New(m), New(m)}
	put(t, nodes[0], "web", "metrics: {period: 5s}\n", 0)
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			_, err := nodes[i%3].Put(t.Context(), "web", Change{Body: fmt.Sprintf("metrics: {period: %ds}\n", i+1), Base: 1}, ada)
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || nodes[1].For("web").Version != 2 {
		t.Errorf("%d of 30 changes of one version, newest %d", won.Load(), nodes[1].For("web").Version)
	}
}

// A text that agents would refuse is not stored, and every problem has its place.
func TestBadTexts(t *testing.T) {
	m := &authtest.Meta{}
	s := New(m)
	for _, c := range []struct{ body, says string }{
		{"metrics:\n  period: 1ms\n", "line 2: metrics.period: "},
		{"logs:\n  files:\n    - include: [/a]\n    - include: [/b]\n    - include:\n        - /c\n        - c/*.log\n", "line 7: logs.files[2].include[1]: "},
		{"logs: {files: [{include: [/var/log/a], multiline: {}}]}\n", "line 1: logs.files[0].multiline: "},
		{"logs: {files: [{include: [/a], labels: {host: x}}]}\n", "line 1: logs.files[0].labels.host: "},
		{"metrics:\n  perod: 15s\n", "line 2: field perod"},
		{"data_dir: /tmp\n", "line 1: field data_dir"},
		{"spool: {max_bytes: 1}\n", "field spool"},
		{"a: [", "line 1: did not find"},
		{"journal: {priority: loud, units: ['']}\n", "journal.units[0]: "},
		{"metrics: {collectors: {enable: [nosuch]}}\n", "metrics.collectors.enable[0]: "},
		{"heartbeat: {period: 5m}\n", "heartbeat.period: "},
		{"x: &a [1]\n---\ny: 1\n", ""},
		{"logs: {files: [{include: [/var/log/../../etc/shadow]}]}\n", ".. is not allowed"},
		{strings.Repeat("#", config.MaxGroup+1), "at most 65536"},
	} {
		_, err := s.Put(t.Context(), "web", Change{Body: c.body}, ada)
		bad := new(Error)
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.60q is answered %v, want %q", c.body, err, c.says)
		}
	}
	for group, ch := range map[string]Change{
		"../x": {}, "": {}, strings.Repeat("g", 65): {},
		"long": {Note: strings.Repeat("n", MaxNote+1)}, "bytes": {Body: "# \xff\n"}, "note": {Note: "\xff"},
	} {
		if _, err := s.Put(t.Context(), group, ch, ada); !errors.Is(err, ErrInvalid) {
			t.Errorf("group %.20q: %v", group, err)
		}
	}
	if len(m.Keys(Bucket)) != 0 || len(m.Audited()) != 0 {
		t.Errorf("something was stored: %q", m.Keys(Bucket))
	}
}

// The longest text fits in a value of the metadata (256 KiB), whatever it holds.
func TestLongestTextFits(t *testing.T) {
	m := &authtest.Meta{}
	s := New(m)
	for i, char := range []string{"<", "\"", "\\", "\u2028", "&"} {
		line := "# " + strings.Repeat(char, 200) + "\n"
		put(t, s, "web", strings.Repeat(line, config.MaxGroup/len(line)), uint64(i))
		if v, _ := m.Get(Bucket, "web"); len(v.Data) > 200<<10 {
			t.Errorf("with %q a record has %d bytes", char, len(v.Data))
		}
	}
}

func TestGroupsAreBounded(t *testing.T) {
	m := &authtest.Meta{}
	s := New(m)
	for i := range MaxGroups - 1 { // the default group counts always
		put(t, s, fmt.Sprintf("g%d", i), "{}\n", 0)
	}
	if _, err := s.Put(t.Context(), "one-more", Change{Body: "{}\n"}, ada); !errors.Is(err, ErrLimit) {
		t.Errorf("one more group: %v", err)
	}
	put(t, s, "g0", "metrics: {enabled: false}\n", 1) // what is there may change
	if n := len(s.Groups()); n != MaxGroups {
		t.Errorf("%d groups", n)
	}
}

func TestDiff(t *testing.T) {
	a := "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"
	got := ""
	for _, l := range Diff(a, strings.Replace(a, "seven", "SEVEN", 1)) {
		got += l.Op + l.Text + "|"
	}
	if got != "@4| four| five| six|-seven|+SEVEN| eight| nine|" {
		t.Errorf("diff %q", got)
	}
	if d := Diff(a, a); d != nil {
		t.Errorf("equal texts differ: %v", d)
	}
	if d := Diff(strings.Repeat("x\n", maxDiff), "y"); len(d) != maxDiff+1 {
		t.Errorf("of long texts %d lines", len(d))
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte("logs:\n  files:\n    - include: [a]\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Check(b); err != nil {
			bad := new(Error)
			if !errors.As(err, &bad) || len(bad.Problems) == 0 {
				t.Errorf("%v", err)
			}
		}
	})
}

var _ auth.Meta = (*authtest.Meta)(nil)
