package scrub

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/triward/triward/raftstate"
)

// NodeRecord is what a node says that it held at the entry of a marker.
type NodeRecord struct {
	Node    string                       `json:"node"`
	Index   uint64                       `json:"index"`
	LogTime int64                        `json:"log_time"`
	State   string                       `json:"state"` // SHA-256 of the deciding state
	Digests []NodeDigest                 `json:"digests"`
	Tables  []NodeTable                  `json:"tables"`
	Keys    map[string]map[string]string `json:"keys,omitempty"` // hashes by table and key
}

// NodeDigest is the running digest of a kind and a UTC day.
type NodeDigest struct {
	Kind  string `json:"kind"`
	Day   int64  `json:"day"`
	Count uint64 `json:"count"`
	Sum   string `json:"sum"`
}

// NodeTable is a table of the deciding state.
type NodeTable struct {
	Name    string `json:"name"`
	Records int    `json:"records"`
	Sum     string `json:"sum"`
}

// Recorded turns a record into what is told to other nodes.
func Recorded(node string, r *raftstate.Record) NodeRecord {
	out := NodeRecord{Node: node, Index: r.State.Mark.Index, LogTime: r.State.LogTime, State: r.State.Sum}
	for _, d := range r.Digests {
		out.Digests = append(out.Digests, NodeDigest{d.Kind.String(), d.Day, d.Count, d.Sum.String()})
	}
	for _, t := range r.Tables {
		out.Tables = append(out.Tables, NodeTable{t.Name, t.Records, t.Sum.String()})
	}
	for table, keys := range r.Keys {
		if out.Keys == nil {
			out.Keys = make(map[string]map[string]string)
		}
		out.Keys[table] = make(map[string]string, len(keys))
		for key, sum := range keys {
			out.Keys[table][keyText(table, key)] = sum.String()
		}
	}
	return out
}

// keyText writes a key for people: those of the tables by number are numbers.
func keyText(table, key string) string {
	if len(key) == 8 && !strings.HasPrefix(table, "meta/") && table != "agents" {
		n := uint64(0)
		for i := range 8 {
			n = n<<8 | uint64(key[i])
		}
		return fmt.Sprint(n)
	}
	text := fmt.Sprintf("%q", key)
	return text[1 : len(text)-1]
}

// Difference is something in which nodes differ.
type Difference struct {
	What  string `json:"what"` // data, state or store
	Kind  string `json:"kind,omitempty"`
	Day   int64  `json:"day,omitempty"`
	Table string `json:"table,omitempty"`
	Key   string `json:"key,omitempty"`
	// Nodes has what each node holds; Odd names those that are not of the majority, all of them where there is none.
	Nodes map[string]string `json:"nodes"`
	Odd   []string          `json:"odd"`
}

// maxDifferences bounds what is listed.
const maxDifferences = 200

// Differences compares records of nodes at one index.
func Differences(records []NodeRecord) (out []Difference) {
	add := func(d Difference) {
		if d.Odd = odd(d.Nodes); len(d.Odd) > 0 && len(out) < maxDifferences {
			out = append(out, d)
		}
	}
	type day struct {
		kind string
		day  int64
	}
	days, tables := map[day]map[string]string{}, map[string]map[string]string{}
	keys := map[[2]string]map[string]string{}
	note := func(m map[string]string, node, value string) map[string]string {
		if m == nil {
			m = map[string]string{}
			for i := range records {
				m[records[i].Node] = "absent"
			}
		}
		m[node] = value
		return m
	}
	state := map[string]string{}
	for i := range records {
		r := &records[i]
		state[r.Node] = r.State
		for _, d := range r.Digests {
			k := day{d.Kind, d.Day}
			days[k] = note(days[k], r.Node, fmt.Sprintf("%d %s", d.Count, d.Sum))
		}
		for _, t := range r.Tables {
			tables[t.Name] = note(tables[t.Name], r.Node, fmt.Sprintf("%d %s", t.Records, t.Sum))
		}
		for table, all := range r.Keys {
			for key, sum := range all {
				k := [2]string{table, key}
				keys[k] = note(keys[k], r.Node, sum)
			}
		}
	}
	for k, nodes := range days {
		add(Difference{What: "data", Kind: k.kind, Day: k.day, Nodes: nodes})
	}
	for name, nodes := range tables {
		add(Difference{What: "state", Table: name, Nodes: nodes})
	}
	for k, nodes := range keys {
		add(Difference{What: "state", Table: k[0], Key: k[1], Nodes: nodes})
	}
	if len(out) == 0 {
		add(Difference{What: "state", Nodes: state})
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Day, b.Day), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Key, b.Key))
	})
	return out
}

// odd names the nodes whose value is not that of more than half of them; none when all are equal.
func odd(nodes map[string]string) (out []string) {
	count := map[string]int{}
	for _, v := range nodes {
		count[v]++
	}
	if len(count) < 2 {
		return nil
	}
	for node, v := range nodes {
		if 2*count[v] <= len(nodes) {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out
}

// TablesOf lists the tables that differ as a whole, at most most of them.
func TablesOf(ds []Difference, most int) (out []string) {
	for i := range ds {
		if d := &ds[i]; d.What == "state" && d.Table != "" && d.Key == "" && len(out) < most {
			out = append(out, d.Table)
		}
	}
	return out
}
