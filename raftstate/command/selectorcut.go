package command

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/triward/triward/agent/wire"
)

// MaxCutSelectors bounds the selectors of one SelectorCut, and those that are remembered of a kind and day.
const MaxCutSelectors = 64

// maxCutDay bounds days since 1970: those that fit into a time in nanoseconds.
const maxCutDay = 106_751

// CutLines is what one selector of a SelectorCut removes.
type CutLines struct {
	Selector wire.Selector
	// Count and the 128-bit sum of the lines' hashes are of those that the selector picks and that neither a selector before
	// it nor a cut before this one hides.
	Count  uint64
	Hi, Lo uint64
}

// SelectorCut hides for good the lines of a kind and a UTC day that selectors pick, as far as they came with entries up to
// Through. Lines that come later stay until the next cut. Whoever proposes it says how many they are and what they sum up
// to, since applying an entry looks at no store and evaluates no expression.
type SelectorCut struct {
	Kind    Kind // KindLogs or KindEvents
	Day     int64
	Through uint64 // an entry before this one
	// After is the entry that changed the record of the day last, 0 for none: what was computed under another is refused.
	After uint64
	Cuts  []CutLines
}

// NewSelectorCut makes the command. Selectors must be Sorted.
func NewSelectorCut(c SelectorCut) Command {
	dst := binary.AppendUvarint([]byte{byte(c.Kind)}, uint64(c.Day))
	dst = binary.AppendUvarint(dst, c.Through)
	dst = binary.AppendUvarint(dst, c.After)
	dst = binary.AppendUvarint(dst, uint64(len(c.Cuts)))
	for i := range c.Cuts {
		l := &c.Cuts[i]
		dst = wire.AppendSelector(dst, l.Selector)
		dst = binary.AppendUvarint(dst, l.Count)
		dst = binary.LittleEndian.AppendUint64(dst, l.Hi)
		dst = binary.LittleEndian.AppendUint64(dst, l.Lo)
	}
	return Command{TypeSelectorCut, bodyVersion, dst}
}

// DecodeSelectorCut is the inverse of NewSelectorCut.
func DecodeSelectorCut(c Command) (SelectorCut, error) {
	var cut SelectorCut
	r, err := expect(c, TypeSelectorCut)
	if err != nil {
		return cut, err
	}
	if cut.Kind = Kind(r.Byte("kind")); r.Err() == nil && cut.Kind != KindLogs && cut.Kind != KindEvents {
		r.Fail("kind that has no streams")
	}
	cut.Day = int64(r.Number("day", maxCutDay))
	cut.Through = r.Uvarint("last entry")
	cut.After = r.Uvarint("entry of the cut before")
	cut.Cuts = make([]CutLines, r.Count("count of selectors", MaxCutSelectors, 18))
	for i := range cut.Cuts {
		l := &cut.Cuts[i]
		l.Selector = wire.ReadSelector(&r)
		l.Count = r.Uvarint("count of lines")
		l.Hi, l.Lo = r.Uint64("sum"), r.Uint64("sum")
	}
	if r.Err() == nil && len(cut.Cuts) == 0 {
		r.Fail("cut without a selector")
	}
	return cut, checked(&r, TypeSelectorCut)
}

// BucketSelectorCuts holds, by CutKey, a CutRecord of each kind and day that selectors have cut and retention has not
// removed as a whole. The state machine alone writes it.
const BucketSelectorCuts = "selector_cuts"

// CutKey is the key of a kind and day: "logs/020419".
func CutKey(kind Kind, day int64) string { return fmt.Sprintf("%s/%06d", kind, day) }

// ParseCutKey is the inverse of CutKey.
func ParseCutKey(key string) (kind Kind, day int64, err error) {
	name, digits, _ := strings.Cut(key, "/")
	day, err = strconv.ParseInt(digits, 10, 64)
	for _, k := range []Kind{KindLogs, KindEvents} {
		if err == nil && day >= 0 && name == k.String() && key == CutKey(k, day) {
			return k, day, nil
		}
	}
	return 0, 0, fmt.Errorf("%w: key %.80q of a cut", ErrMalformed, key)
}

// CutRecord is what the cluster remembers of the cuts of a kind and day.
type CutRecord struct {
	Cuts []RecordedCut
}

// RecordedCut is what a selector hides of a day.
type RecordedCut struct {
	wire.CutSelector
	Lines uint64 // removed so far
	At    int64  // log time of its last cut, milliseconds since 1970
}

const cutRecordVersion = 1

// Append appends the binary form: version byte (1), uvarint n, then of each the selector, uvarint last entry, uvarint lines,
// varint time.
func (c *CutRecord) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, cutRecordVersion), uint64(len(c.Cuts)))
	for i := range c.Cuts {
		dst = wire.AppendSelector(dst, c.Cuts[i].Selector)
		dst = binary.AppendUvarint(dst, c.Cuts[i].Through)
		dst = binary.AppendUvarint(dst, c.Cuts[i].Lines)
		dst = binary.AppendVarint(dst, c.Cuts[i].At)
	}
	return dst
}

// DecodeCutRecord is the inverse of Append. Errors wrap ErrMalformed.
func DecodeCutRecord(b []byte) (CutRecord, error) {
	var c CutRecord
	r := wire.NewReader(b, ErrMalformed)
	if v := r.Byte("version"); r.Err() == nil && v != cutRecordVersion {
		return c, fmt.Errorf("%w: cut of version %d, this program knows %d", ErrMalformed, v, cutRecordVersion)
	}
	c.Cuts = make([]RecordedCut, r.Count("count of selectors", MaxCutSelectors, 4))
	for i := range c.Cuts {
		c.Cuts[i].Selector = wire.ReadSelector(&r)
		c.Cuts[i].Through = r.Uvarint("last entry")
		c.Cuts[i].Lines = r.Uvarint("lines")
		c.Cuts[i].At = r.Varint("time")
	}
	return c, r.End("the record of a cut")
}

// Add merges a cut that was made at a log time (milliseconds since 1970) into the record. It fails, and changes nothing, when more than MaxCutSelectors would be remembered.
func (c *CutRecord) Add(cut *SelectorCut, at int64) error {
	merged := slices.Clone(c.Cuts)
	for i := range cut.Cuts {
		l := &cut.Cuts[i]
		k := slices.IndexFunc(merged, func(r RecordedCut) bool { return slices.Equal(r.Selector, l.Selector) })
		if k < 0 {
			k = len(merged)
			merged = append(merged, RecordedCut{CutSelector: wire.CutSelector{Selector: l.Selector}})
		}
		merged[k].Through = max(merged[k].Through, cut.Through)
		merged[k].Lines += l.Count
		merged[k].At = at
	}
	if len(merged) > MaxCutSelectors {
		return errTooManySelectors
	}
	c.Cuts = merged
	return nil
}

var errTooManySelectors = errors.New("64 selectors have cut this day, which is the most that is remembered of one")

// LogCut is what the record at a key means to a store of lines; index is the entry that changed it last.
func LogCut(key string, index uint64, value []byte) (wire.LogCut, error) {
	kind, day, err := ParseCutKey(key)
	if err != nil {
		return wire.LogCut{}, err
	}
	rec, err := DecodeCutRecord(value)
	if err != nil {
		return wire.LogCut{}, fmt.Errorf("%s/%s: %w", BucketSelectorCuts, key, err)
	}
	out := wire.LogCut{Kind: wire.StreamLog, Day: day, Index: index, Selectors: make([]wire.CutSelector, len(rec.Cuts))}
	if kind == KindEvents {
		out.Kind = wire.StreamEvent
	}
	for i := range rec.Cuts {
		out.Selectors[i] = rec.Cuts[i].CutSelector
	}
	return out, nil
}
