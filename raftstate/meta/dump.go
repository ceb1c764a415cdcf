package meta

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"
	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/raftstate/command"
)

// Dump writes all state as text in a fixed order, the same for equal states however they came about: to compare
// nodes and to look at. Apply goroutine only.
func (s *Store) Dump(out io.Writer) error {
	w := bufio.NewWriter(out)
	index, term := s.Applied()
	fmt.Fprintf(w, "applied %d term %d logtime %d format %d nextid %d nextagent %d series %d\n", index, term,
		s.LogTime(), s.Format(), s.nextID, s.nextAgent, s.SeriesCount())
	for _, k := range command.Kinds {
		fmt.Fprintf(w, "floor %s %d\n", k, s.Floor(k))
	}
	_, days := s.Digests()
	for _, d := range days {
		fmt.Fprintf(w, "digest %s %d %d %s\n", d.Kind, d.Day, d.Count, d.Sum)
	}
	for _, name := range slices.Sorted(maps.Keys(s.agents)) {
		a := s.agents[name]
		fmt.Fprintf(w, "agent %q %d open %t epoch %s series %d clones %d lanes %v closed %v\n", name, a.num, a.open,
			a.epoch, a.series, a.clones, a.lanes[1:], a.closed)
	}
	for id := uint64(1); id < s.nextID; id++ {
		pn, slot := id>>pageBits, id&pageMask
		if s.dict[pn] == nil || s.dict[pn].owner[slot] == 0 {
			continue
		}
		se, _ := s.Series(id)
		fmt.Fprintf(w, "series %d %q %v %x", id, se.Agent, se.Labels, s.dict[pn].hash[slot])
		tl := s.times[pn].tl[slot]
		fmt.Fprintf(w, " floor %d runs %v\n", tl.floor, tl.runs(0))
	}
	lines := xxh3.New()
	s.recent.each(func(line Sum) {
		_, _ = lines.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, line.Hi), line.Lo))
	})
	fmt.Fprintf(w, "recent lines %d to %d sum %016x\n", s.recent.first, s.recent.next, lines.Sum64())
	buckets, err := s.buckets()
	if err != nil {
		return err
	}
	for _, bucket := range buckets {
		s.Scan(bucket, "", func(key string, v Value) bool {
			fmt.Fprintf(w, "key %q %q at %d until %d: %q\n", bucket, key, v.ModIndex, v.Expires, v.Data)
			return true
		})
	}
	return w.Flush()
}

// buckets returns the names of all buckets of metadata that ever held a key.
func (s *Store) buckets() ([]string, error) {
	names := make(map[string]bool)
	s.kvMu.RLock()
	for _, l := range []*layer{s.live, s.frozen} {
		if l != nil {
			for name := range l.kv {
				names[name] = true
			}
		}
	}
	s.kvMu.RUnlock()
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketKV).Cursor()
		for k, _ := c.First(); k != nil; {
			name, _, _ := strings.Cut(string(k), "\x00")
			names[name] = true
			k, _ = c.Seek(append([]byte(name), 1))
		}
		return nil
	})
	return slices.Sorted(maps.Keys(names)), err
}
