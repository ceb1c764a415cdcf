package auditlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// state holds a chain as a node does.
type state struct {
	keys map[string][]byte
	head audit.Head
}

// Get implements auditlog.State.
func (s *state) Get(bucket, key string) (meta.Value, bool) {
	b, ok := s.keys[bucket+"/"+key]
	return meta.Value{Data: b}, ok
}

func (s *state) add(t int64, actor, action, target string) {
	r, b := s.head.Next(uint64(t), t, command.AuditRecord{Actor: actor, Address: "192.0.2.1", Action: action, Target: target, Detail: []byte(`{"n":1}`)})
	s.keys[audit.BucketRecords+"/"+audit.Key(r.Seq)] = b
	s.keys[audit.BucketHead+"/"+audit.KeyHead] = s.head.AppendJSON(nil)
}

// forget drops the oldest record, as the state machine does at its limits.
func (s *state) forget() {
	key := audit.BucketRecords + "/" + audit.Key(s.head.First)
	s.head.Bytes -= int64(len(s.keys[key]))
	delete(s.keys, key)
	s.head.First++
	s.keys[audit.BucketHead+"/"+audit.KeyHead] = s.head.AppendJSON(nil)
}

// filled has n records at log times 1000, 2000 and so on, by two actors in turn.
func filled(n int) *state {
	s := &state{keys: make(map[string][]byte)}
	for i := 1; i <= n; i++ {
		actor, action := "ada", "user.role"
		if i%2 == 0 {
			actor, action = "Bob (token ci 01)", "token.create"
		}
		s.add(int64(i)*1000, actor, action, fmt.Sprint("thing-", i))
	}
	return s
}

func TestQuery(t *testing.T) {
	s := filled(100)
	for range 10 {
		s.forget()
	}
	l := auditlog.New(s)
	for name, c := range map[string]struct {
		q    auditlog.Query
		want []uint64 // the first numbers
		n    int      // over all pages
	}{
		"all":              {auditlog.Query{}, []uint64{100, 99, 98}, 90},
		"pages":            {auditlog.Query{Limit: 7}, []uint64{100, 99}, 90},
		"actor":            {auditlog.Query{Actor: "bOB"}, []uint64{100, 98}, 45},
		"action":           {auditlog.Query{Action: "user"}, []uint64{99, 97}, 45},
		"whole action":     {auditlog.Query{Action: "token.create", Limit: 10}, []uint64{100}, 45},
		"part of a word":   {auditlog.Query{Action: "use"}, nil, 0},
		"target":           {auditlog.Query{Target: "THING-42"}, []uint64{42}, 1},
		"forgotten":        {auditlog.Query{Target: "thing-3", Limit: 3}, []uint64{39, 38, 37}, 10},
		"from":             {auditlog.Query{Start: 95_000}, []uint64{100}, 6},
		"up to":            {auditlog.Query{End: 20_000}, []uint64{19, 18}, 9},
		"between":          {auditlog.Query{Start: 50_000, End: 53_001}, []uint64{53, 52, 51, 50}, 4},
		"before all":       {auditlog.Query{End: 5}, nil, 0},
		"from after all":   {auditlog.Query{Start: 1 << 40}, nil, 0},
		"behind a number":  {auditlog.Query{Before: 12}, []uint64{11}, 1},
		"nobody with that": {auditlog.Query{Actor: "eve"}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var got []uint64
			for q := c.q; ; {
				page, err := l.Query(t.Context(), q)
				if err != nil || q.Limit > 0 && len(page.Records) > q.Limit || page.Head.First != 11 || page.Head.Seq != 100 {
					t.Fatal(page, err)
				}
				for _, r := range page.Records {
					got = append(got, r.Seq)
				}
				if page.Next == 0 {
					break
				}
				q.Before = page.Next
			}
			if len(got) != c.n || !slices.Equal(got[:min(len(got), len(c.want))], c.want) {
				t.Errorf("%d: %v", len(got), got)
			}
		})
	}
	empty, err := auditlog.New(&state{}).Query(t.Context(), auditlog.Query{End: 7})
	if err != nil || len(empty.Records) != 0 || empty.Next != 0 {
		t.Errorf("%+v %v", empty, err)
	}
}

// One request looks at so many records only, and says where it ended.
func TestQueryIsBounded(t *testing.T) {
	l := auditlog.New(filled(45_000))
	pages := 0
	for before := uint64(0); ; pages++ {
		page, err := l.Query(t.Context(), auditlog.Query{Target: "thing-1", Before: before, Limit: 1000, Actor: "nobody"})
		if err != nil || len(page.Records) != 0 {
			t.Fatal(err)
		}
		if before = page.Next; before == 0 {
			break
		}
	}
	if pages != 2 {
		t.Errorf("%d more pages", pages)
	}
}

func export(t *testing.T, s *state) []byte {
	t.Helper()
	var b bytes.Buffer
	err := auditlog.New(s).Export(t.Context(), auditlog.ExportOrigin{Cluster: "c", Node: "n1", LogTime: 5}, func() io.Writer { return &b })
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is wrong with the chain is found on the node, and in an export of it.
func TestVerify(t *testing.T) {
	s := filled(20)
	s.forget()
	s.forget()
	note := auditlog.Point{Seq: 20, Hash: s.head.Hash.String()}
	whole := export(t, s)
	for name, point := range map[string]*auditlog.Point{"": nil, auditlog.ExpectedHeld: &note, auditlog.ExpectedGone: {Seq: 2, Hash: note.Hash}} {
		for where, verify := range map[string]func() (auditlog.ChainVerdict, error){
			"node":   func() (auditlog.ChainVerdict, error) { return auditlog.New(s).Verify(t.Context(), point) },
			"export": func() (auditlog.ChainVerdict, error) { return auditlog.VerifyExport(bytes.NewReader(whole), point) },
		} {
			if v, err := verify(); err != nil || !v.OK || v.Expected != name || v.Head.First != 3 || v.Head.Seq != 20 {
				t.Errorf("%s %s: %+v %v", where, name, v, err)
			}
		}
	}
	for name, harm := range map[string]func([][]byte) [][]byte{
		"edited":       func(l [][]byte) [][]byte { l[5] = bytes.Replace(l[5], []byte("thing"), []byte("thong"), 1); return l },
		"missing":      func(l [][]byte) [][]byte { return slices.Delete(l, 5, 6) },
		"cut off":      func(l [][]byte) [][]byte { return l[:15] },
		"out of order": func(l [][]byte) [][]byte { l[5], l[6] = l[6], l[5]; return l },
		"head":         func(l [][]byte) [][]byte { l[18] = nil; return l[:18] },
		"other cluster": func(l [][]byte) [][]byte {
			return append(l[:1:1], bytes.Split(bytes.TrimSpace(export(t, filled(20))), []byte("\n"))[3:18]...)
		},
	} {
		lines := harm(bytes.Split(bytes.TrimSpace(bytes.Clone(whole)), []byte("\n")))
		if v, err := auditlog.VerifyExport(bytes.NewReader(append(bytes.Join(lines, []byte("\n")), '\n')), nil); err != nil || v.OK || v.Fault == "" {
			t.Errorf("%s: %+v %v", name, v, err)
		}
	}
	// The whole chain written anew verifies, but not against a note.
	anew := filled(19)
	anew.add(20_000, "eve", "user.role", "root")
	anew.forget()
	anew.forget()
	if v, err := auditlog.New(anew).Verify(t.Context(), &note); err != nil || v.OK || v.Expected != auditlog.ExpectedDiffer || v.Fault != "" {
		t.Errorf("written anew: %+v %v", v, err)
	}
	if v, err := auditlog.New(filled(10)).Verify(t.Context(), &note); err != nil || v.OK || v.Expected != auditlog.ExpectedAhead {
		t.Errorf("shorter: %+v %v", v, err)
	}
	delete(s.keys, audit.BucketRecords+"/"+audit.Key(7))
	if v, err := auditlog.New(s).Verify(t.Context(), nil); err != nil || v.OK || v.Seq != 7 {
		t.Errorf("gone on the node: %+v %v", v, err)
	}
	if err := auditlog.New(s).Export(t.Context(), auditlog.ExportOrigin{}, func() io.Writer { return io.Discard }); err == nil || !strings.Contains(err.Error(), "record 7 is missing") {
		t.Errorf("a chain with a gap is exported: %v", err)
	}
}

func TestWhatIsNoExport(t *testing.T) {
	for _, text := range []string{"", "\n", "{}", "garbage", `{"triward_audit":2,"head":{}}`, `{"triward_audit":1,"head":{"hash":"x"}}`, strings.Repeat("x", 1<<20)} {
		if _, err := auditlog.VerifyExport(strings.NewReader(text), nil); !errors.Is(err, auditlog.ErrNotExport) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	for _, text := range []string{"", "5", "5:", "0:" + strings.Repeat("0", 64), "x:" + strings.Repeat("0", 64), "5:" + strings.Repeat("g", 64)} {
		if _, err := auditlog.ParsePoint(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if v, err := auditlog.VerifyExport(bytes.NewReader(export(t, &state{})), nil); err != nil || !v.OK {
		t.Errorf("an empty chain: %+v %v", v, err)
	}
}
