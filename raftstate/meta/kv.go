package meta

import (
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// kvEntry is a change of a key; it never changes itself.
type kvEntry struct {
	Value
	deleted bool
}

type kvLayer map[string]map[string]*kvEntry // bucket, key

func (l kvLayer) put(bucket, key string, e *kvEntry) {
	keys := l[bucket]
	if keys == nil {
		keys = make(map[string]*kvEntry)
		l[bucket] = keys
	}
	keys[key] = e
}

func kvKey(bucket, key string) []byte {
	b := make([]byte, 0, len(bucket)+1+len(key))
	b = append(append(b, bucket...), 0)
	return append(b, key...)
}

func appendValue(dst []byte, v *Value) []byte {
	dst = binary.AppendUvarint(dst, v.ModIndex)
	dst = binary.AppendVarint(dst, v.Expires)
	return append(dst, v.Data...)
}

// readValue reads a record of the file; the data is a copy.
func readValue(key, rec []byte) (Value, error) {
	body, err := unsealed(key, rec)
	if err != nil {
		return Value{}, err
	}
	f := fields{b: body}
	v := Value{ModIndex: f.uvarint("index"), Expires: f.varint("expiry")}
	v.Data = bytes.Clone(f.b)
	return v, f.err
}

func (s *Store) alive(v *Value) bool { return v.Expires == 0 || v.Expires > s.logTime.Load() }

// Get returns the value of a key; false when it is absent or its time is over.
func (s *Store) Get(bucket, key string) (Value, bool) {
	s.kvMu.RLock()
	e := s.changed(bucket, key)
	s.kvMu.RUnlock()
	return s.resolve(bucket, key, e)
}

// changed returns the newest change of a key that is not in the file yet, or nil. kvMu is held.
func (s *Store) changed(bucket, key string) *kvEntry {
	if e := s.live.kv[bucket][key]; e != nil {
		return e
	}
	if s.frozen != nil {
		return s.frozen.kv[bucket][key]
	}
	return nil
}

// resolve reads the key from the file unless e, found before, says what it is. A commit between the two only
// moves the same value from e's layer to the file.
func (s *Store) resolve(bucket, key string, e *kvEntry) (Value, bool) {
	if e != nil {
		if e.deleted || !s.alive(&e.Value) {
			return Value{}, false
		}
		return e.Value, true
	}
	var v Value
	found := false
	err := s.view(func(tx *bolt.Tx) error {
		k := kvKey(bucket, key)
		rec := tx.Bucket(bucketKV).Get(k)
		if rec == nil {
			return nil
		}
		var err error
		v, err = readValue(k, rec)
		found = err == nil
		return err
	})
	if err != nil {
		s.unreadable("read key "+bucket+"/"+key, err)
		return Value{}, false
	}
	if !found || !s.alive(&v) {
		return Value{}, false
	}
	return v, true
}

// unreadable ends the program when the file, found whole at Open, no longer is: an answer from it could make
// this node differ from the others. A closed store only answers nothing.
func (s *Store) unreadable(what string, err error) {
	if err == bolt.ErrDatabaseNotOpen { //nolint:errorlint // returned as it is
		return
	}
	panic(fmt.Sprintf("state file %s: %s: %v", s.Path(), what, err))
}

const scanChunk = 512

// Scan calls fn with each key of a bucket that begins with prefix, in ascending order, until fn returns false.
// fn may call any method of the store. Keys changed during the scan may be seen as before or as after.
func (s *Store) Scan(bucket, prefix string, fn func(key string, v Value) bool) {
	from := prefix
	for {
		s.kvMu.RLock()
		over := s.changes(bucket, prefix, from)
		s.kvMu.RUnlock()
		rows, more := s.scanChunk(over, bucket, prefix, from)
		for i := range rows {
			if r := &rows[i]; !r.e.deleted && s.alive(&r.e.Value) && !fn(r.key, r.e.Value) {
				return
			}
		}
		if !more {
			return
		}
		from = rows[len(rows)-1].key + "\x00"
	}
}

type kvRow struct {
	key string
	e   *kvEntry
}

// changes returns what is not in the file yet of the keys from `from` on. kvMu is held.
func (s *Store) changes(bucket, prefix, from string) map[string]*kvEntry {
	over := make(map[string]*kvEntry)
	if s.frozen != nil {
		collect(over, s.frozen.kv[bucket], prefix, from)
	}
	collect(over, s.live.kv[bucket], prefix, from)
	return over
}

// scanChunk returns the next rows of the file and of `over`, which it uses up, deleted ones included, and whether
// there may be more behind the last.
func (s *Store) scanChunk(over map[string]*kvEntry, bucket, prefix, from string) (rows []kvRow, more bool) {
	last := ""
	err := s.view(func(tx *bolt.Tx) error {
		head := kvKey(bucket, prefix)
		c := tx.Bucket(bucketKV).Cursor()
		for k, rec := c.Seek(kvKey(bucket, from)); k != nil && bytes.HasPrefix(k, head); k, rec = c.Next() {
			if len(rows) == scanChunk {
				more = true
				break
			}
			key := string(k[len(bucket)+1:])
			last = key
			if over[key] != nil {
				rows = append(rows, kvRow{key, over[key]})
				delete(over, key)
				continue
			}
			v, err := readValue(k, rec)
			if err != nil {
				return err
			}
			rows = append(rows, kvRow{key, &kvEntry{Value: v}})
		}
		return nil
	})
	if err != nil {
		s.unreadable("scan "+bucket, err)
	}
	for key, e := range over {
		if !more || key < last {
			rows = append(rows, kvRow{key, e})
		}
	}
	slices.SortFunc(rows, func(a, b kvRow) int { return cmp.Compare(a.key, b.key) })
	return rows, more
}

func collect(into, keys map[string]*kvEntry, prefix, from string) {
	for key, e := range keys {
		if key >= from && strings.HasPrefix(key, prefix) {
			into[key] = e
		}
	}
}

// lock makes readers wait until End, so that they never see an entry half applied: an index in ModIndex then
// stands for one state of the key.
func (tx *Tx) lock() {
	if !tx.locked {
		tx.s.kvMu.Lock()
		tx.locked = true
	}
}

// Get is Store.Get within the entry.
func (tx *Tx) Get(bucket, key string) (Value, bool) {
	return tx.s.resolve(bucket, key, tx.changed(bucket, key))
}

// changed is Store.changed; a commit beside the apply goroutine takes layers away.
func (tx *Tx) changed(bucket, key string) *kvEntry {
	if !tx.locked {
		tx.s.kvMu.RLock()
		defer tx.s.kvMu.RUnlock()
	}
	return tx.s.changed(bucket, key)
}

// Keys returns all keys of a bucket in ascending order, as the entry sees them: meant for buckets of few keys.
func (tx *Tx) Keys(bucket string) []string {
	var keys []string
	for from, more := "", true; more; {
		var rows []kvRow
		rows, more = tx.s.scanChunk(tx.changesFrom(bucket, from), bucket, "", from)
		for i := range rows {
			if r := &rows[i]; !r.e.deleted && tx.s.alive(&r.e.Value) {
				keys = append(keys, r.key)
			}
		}
		if more {
			from = rows[len(rows)-1].key + "\x00"
		}
	}
	return keys
}

// changesFrom is Store.changes; a commit beside the apply goroutine takes layers away.
func (tx *Tx) changesFrom(bucket, from string) map[string]*kvEntry {
	if !tx.locked {
		tx.s.kvMu.RLock()
		defer tx.s.kvMu.RUnlock()
	}
	return tx.s.changes(bucket, "", from)
}

// Put sets a key. Data is copied. A key whose time to expire has come already is deleted.
func (tx *Tx) Put(bucket, key string, data []byte, expires int64) {
	if expires != 0 && expires <= tx.logTime {
		tx.Delete(bucket, key)
		return
	}
	tx.lock()
	e := &kvEntry{Value: Value{Data: bytes.Clone(data), ModIndex: tx.index, Expires: expires}}
	tx.s.live.kv.put(bucket, key, e)
	if expires != 0 {
		tx.expireAt(expires, bucket, key)
	}
	*tx.changes = append(*tx.changes, Change{bucket, key})
}

// Delete removes a key; one that is absent is no change.
func (tx *Tx) Delete(bucket, key string) {
	if _, ok := tx.Get(bucket, key); !ok {
		return
	}
	tx.remove(bucket, key)
}

func (tx *Tx) remove(bucket, key string) {
	tx.lock()
	tx.s.live.kv.put(bucket, key, &kvEntry{Value: Value{ModIndex: tx.index}, deleted: true})
	*tx.changes = append(*tx.changes, Change{bucket, key})
}

// expire removes the keys whose time has come, in order of time, bucket and key.
func (tx *Tx) expire() {
	h := &tx.s.expiry
	for len(*h) > 0 && (*h)[0].at <= tx.logTime {
		x := heap.Pop(h).(expiring)
		// The key may have got another time since, or be gone.
		if v, deleted := tx.stored(x.bucket, x.key); !deleted && v.Expires == x.at {
			tx.remove(x.bucket, x.key)
		}
	}
}

// expireAt notes when a key goes. Notes of keys that have got another time since are thrown out whenever they
// may be the half of all.
func (tx *Tx) expireAt(at int64, bucket, key string) {
	const few = 1024
	h := &tx.s.expiry
	heap.Push(h, expiring{at, bucket, key})
	if len(*h) < max(few, tx.s.expirySwept*2) {
		return
	}
	seen := make(map[[2]string]bool, len(*h)/2)
	*h = slices.DeleteFunc(*h, func(x expiring) bool {
		v, deleted := tx.stored(x.bucket, x.key)
		name := [2]string{x.bucket, x.key}
		if deleted || v.Expires != x.at || seen[name] {
			return true
		}
		seen[name] = true
		return false
	})
	heap.Init(h)
	tx.s.expirySwept = len(*h)
}

// stored returns the value of a key whether its time is over or not.
func (tx *Tx) stored(bucket, key string) (v Value, deleted bool) {
	if e := tx.changed(bucket, key); e != nil {
		return e.Value, e.deleted
	}
	deleted = true
	err := tx.s.view(func(btx *bolt.Tx) error {
		k := kvKey(bucket, key)
		rec := btx.Bucket(bucketKV).Get(k)
		if rec == nil {
			return nil
		}
		var err error
		v, err = readValue(k, rec)
		deleted = false
		return err
	})
	if err != nil {
		tx.s.unreadable("read key "+bucket+"/"+key, err)
	}
	return v, deleted
}

// expiring is a key and the log time it goes at.
type expiring struct {
	at          int64
	bucket, key string
}

type expiryHeap []expiring

// Len, Less, Swap, Push and Pop are those of container/heap.
func (h expiryHeap) Len() int { return len(h) }

func (h expiryHeap) Less(i, j int) bool {
	a, b := &h[i], &h[j]
	return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.bucket, b.bucket), strings.Compare(a.key, b.key)) < 0
}

func (h expiryHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

func (h *expiryHeap) Push(x any) { *h = append(*h, x.(expiring)) }

func (h *expiryHeap) Pop() any {
	old := *h
	n := len(old) - 1
	x := old[n]
	old[n] = expiring{}
	*h = old[:n]
	return x
}
