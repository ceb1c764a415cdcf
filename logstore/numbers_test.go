package logstore

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// numbered is a store of hosts with 300 lines each in rounds of 100: the field took of host h is 1000*h to 1000*h+299, and its
// text has a number of five digits. Of the last host texts hold the field, too, and an id of 32 hexadecimal digits.
type numbered struct {
	s     *Store
	hosts int
	index uint64
	lines int // of each host
}

func (n *numbered) apply(t *testing.T) {
	t.Helper()
	for h := range n.hosts {
		b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": strconv.Itoa(h)})}}}
		st := &b.Streams[0]
		for i := range 100 {
			i += n.lines
			l := wire.LogLine{T: testDay*DayNs + int64(i)*1e9, Text: fmt.Appendf(nil, "job %05d done", 10*i+h), Fields: wire.Labels{{Name: "took", Value: strconv.Itoa(1000*h + i)}}}
			switch {
			case i%10 == 3:
				l.Fields = nil
			case i%10 == 4:
				l.Fields[0].Value = "long"
			}
			if h == n.hosts-1 {
				l.Text = fmt.Appendf(nil, "id=%032x took=%d", 0xabcdef0123+i, 500_000+i)
			}
			st.Lines = append(st.Lines, l)
		}
		n.index++
		e := wire.LogEntry{Index: n.index, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		if err := n.s.ApplyLogs(n.index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	n.lines += 100
}

// ask counts the lines of the day, at once and by a page of its rows.
func (n *numbered) ask(t *testing.T, text string) (lines int, st Stats) {
	t.Helper()
	f, err := query.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	req := Request{Filter: f, Start: testDay * DayNs, End: (testDay + 1) * DayNs, Limit: MaxRows}
	h, err := n.s.Hits(t.Context(), req, DayNs)
	if err != nil || h.Stats.Partial {
		t.Fatal(err, h)
	}
	a, err := n.s.Search(t.Context(), req)
	if err != nil || a.Stats.Partial || len(a.Rows) != int(h.Total) {
		t.Fatalf("%s: %d rows, %d lines are counted: %v", text, len(a.Rows), h.Total, err)
	}
	return len(a.Rows), h.Stats
}

// check asks for numbers and for ids; told says that blocks tell of the numbers of their fields and the forms of their words.
func (n *numbered) check(t *testing.T, told bool) {
	t.Helper()
	rounds, last := n.lines/100, 1000*(n.hosts-1)
	for text, want := range map[string]int{
		"took>=2000 took<3000":                80 * rounds,
		"took<0":                              0,
		"-took<1000":                          100*rounds*n.hosts - 80*rounds,
		"took>=0 OR took:long":                (90*n.hosts + 10) * rounds,
		fmt.Sprintf("took>=%d", last):         90 * rounds, // with those of texts
		"took>=500000":                        10 * rounds,
		"took>600000":                         0,
		fmt.Sprintf("%032x", 0xabcdef0123+42): 1,
		"00000000000000000000009bcdef0123":    0,
		"00012":                               1,
	} {
		got, st := n.ask(t, text)
		if got != want {
			t.Fatalf("%s: %d lines, want %d", text, got, want)
		}
		if told && want <= 80*rounds && text[:1] != "-" && text != "00012" && st.Blocks > 2*st.Considered/n.hosts { // the last host's texts may, too
			t.Errorf("%s: of %d blocks %d were opened for %d lines", text, st.Considered, st.Blocks, want)
		}
	}
	opened := 0
	for i := range 100 { // no word of another form gets through by chance
		_, st := n.ask(t, fmt.Sprintf("%031x-host:%d", 0xfedcba98765+i, n.hosts-1))
		opened += st.Blocks
	}
	if told && opened > 0 {
		t.Errorf("%d blocks were opened for ids of a form that no word has", opened)
	}
}

func (n *numbered) eachRow(t *testing.T, prefix byte, fn func(key, value []byte)) {
	t.Helper()
	if err := n.s.engine.rows(n.s.engine.db, []byte{prefix}, func(key, value []byte) error {
		fn(key, value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// Blocks say between which numbers a field is and of what form words are; those of before say nothing, and either way the same lines are found,
// sealed, merged or with a filter that is none.
func TestNumbersAndFormsRuleOutBlocks(t *testing.T) {
	for _, format := range []uint32{1, 2} {
		for _, noIndex := range []bool{false, true} {
			t.Run(fmt.Sprint(format, noIndex), func(t *testing.T) {
				n := &numbered{s: testStore(t, t.TempDir(), Options{NoIndex: noIndex}), hosts: 8}
				n.s.SetFormat(format)
				n.apply(t)
				n.check(t, false)
				work(t, n.s, false)
				n.apply(t)
				work(t, n.s, true) // sealed and merged
				n.check(t, format == 2)
				n.s.SetFormat(2)
				n.apply(t)
				n.check(t, false)
				work(t, n.s, true)
				n.check(t, format == 2)
				if noIndex {
					return
				}
				n.eachRow(t, prefixFilter, func(key, value []byte) {
					if err := n.s.engine.db.Set(key, value[:1+len(value)%2], pebble.NoSync); err != nil {
						t.Fatal(err)
					}
				})
				n.check(t, false)
			})
		}
	}
}

// Damage to columns is told, and takes no other block along.
func TestDamagedNumbersAreTold(t *testing.T) {
	n := &numbered{s: testStore(t, t.TempDir(), Options{}), hosts: 4}
	n.apply(t)
	work(t, n.s, true)
	rows := 0
	n.eachRow(t, prefixColumns, func(key, value []byte) {
		if rows++; rows > 1 {
			return
		}
		bad := append([]byte(nil), value...)
		bad[6] ^= 1 // the directory
		if err := n.s.engine.db.Set(key, bad, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	})
	f, err := query.Parse("took>=0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := n.s.Search(t.Context(), Request{Filter: f, Limit: MaxRows})
	if err != nil || !a.Stats.Partial || len(a.Stats.Damaged) != 1 || len(a.Rows) < 3*80 || len(a.Rows) >= 4*80+10 {
		t.Errorf("%d rows, damaged %v: %v", len(a.Rows), a.Stats.Damaged, err)
	}
}
