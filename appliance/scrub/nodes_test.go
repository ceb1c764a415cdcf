package scrub

import (
	"slices"
	"testing"
)

func record(node string, change func(*NodeRecord)) NodeRecord {
	r := NodeRecord{
		Node: node, Index: 7, State: "s",
		Digests: []NodeDigest{{"metrics", 20000, 3, "aa"}, {"logs", 20000, 4, "bb"}},
		Tables:  []NodeTable{{"agents", 2, "cc"}, {"meta/users", 1, "dd"}},
	}
	if change != nil {
		change(&r)
	}
	return r
}

func TestDifferencesAreNamed(t *testing.T) {
	same := []NodeRecord{record("n1", nil), record("n2", nil), record("n3", nil)}
	if d := Differences(same); len(d) != 0 {
		t.Errorf("equal nodes differ: %+v", d)
	}
	one := []NodeRecord{record("n1", nil), record("n2", func(r *NodeRecord) {
		r.Digests[0].Sum = "xx"
		r.Digests = r.Digests[:1]
		r.Tables[1].Sum, r.State = "yy", "z"
	}), record("n3", nil)}
	got := Differences(one)
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []struct{ what, kind, table, held string }{
		{"data", "logs", "", "absent"}, {"data", "metrics", "", "3 xx"}, {"state", "", "meta/users", "1 yy"},
	} {
		d := got[i]
		if d.What != want.what || d.Kind != want.kind || d.Table != want.table || d.Nodes["n2"] != want.held || !slices.Equal(d.Odd, []string{"n2"}) {
			t.Errorf("%+v, want %+v", d, want)
		}
	}
	if tables := TablesOf(got, 5); !slices.Equal(tables, []string{"meta/users"}) {
		t.Errorf("tables %v", tables)
	}
	keys := []NodeRecord{record("n1", nil), record("n2", nil)}
	keys[0].Keys = map[string]map[string]string{"meta/users": {"ann": "1", "bob": "2"}}
	keys[1].Keys = map[string]map[string]string{"meta/users": {"ann": "1", "bob": "3", "eve": "4"}}
	got = Differences(keys)
	if len(got) != 2 || got[0].Key != "bob" || got[1].Key != "eve" || !slices.Equal(got[0].Odd, []string{"n1", "n2"}) {
		t.Errorf("%+v", got)
	}
}
