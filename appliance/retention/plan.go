package retention

import (
	"fmt"
	"math"
	"slices"

	"github.com/triward/triward/raftstate/command"
)

// Reserve is what must stay free on a disk of total bytes, so that the log, the merging of blocks and the notes of
// what is dropped always have room: 320 MiB, on a tiny disk three quarters of it. The room of a disk is the rest, and
// all percentages are of that.
func Reserve(total int64) int64 { return min(320<<20, total/4*3) }

// DayBytes is what a kind takes on a disk for one day.
type DayBytes struct {
	Day   int64 `json:"day"` // days since 1970, UTC
	Bytes int64 `json:"bytes"`
}

// Report is what a node says of the disk that its data lies on, in bytes.
type Report struct {
	Node  string `json:"node"`
	Total int64  `json:"total"`
	Free  int64  `json:"free"`
	// Queue is the log; QueueMost what it is to have at most, so what is beyond it passes by itself.
	Queue     int64 `json:"queue"`
	QueueMost int64 `json:"queue_most"`
	Meta      int64 `json:"meta"`
	// Temporary are copies being cut, sent or installed: they pass.
	Temporary int64 `json:"temporary"`
	// Kinds is what is stored, by name of the kind, Days the same by day where a cut can free it.
	Kinds map[string]int64      `json:"kinds"`
	Days  map[string][]DayBytes `json:"days"`
	// Pending says that days which were cut are still being deleted.
	Pending bool `json:"pending"`
	// Installing says that the node takes its state from another.
	Installing bool `json:"installing,omitempty"`
}

// Room is what the disk has for all that lies on it.
func (r *Report) Room() int64 { return r.Total - Reserve(r.Total) }

// Stored is what the stores take.
func (r *Report) Stored() (n int64) {
	for _, b := range r.Kinds {
		n += b
	}
	return n
}

// Pass counts n bytes of what the kinds take as temporary: files that a store does not use any more, which go when the
// last reader lets go of them, or that it makes in place of others.
func (r *Report) Pass(n int64, kinds ...command.Kind) {
	var all int64
	for _, k := range kinds {
		all += r.Kinds[k.String()]
	}
	if n = min(n, all); n <= 0 {
		return
	}
	part := float64(n) / float64(all)
	for _, k := range kinds {
		b := int64(part * float64(r.Kinds[k.String()]))
		r.Kinds[k.String()] -= b
		r.Temporary += b
	}
}

// Foreign is what files take that are not ours.
func (r *Report) Foreign() int64 {
	return max(0, r.Total-r.Free-r.Stored()-r.Queue-r.Meta-r.Temporary)
}

// Counted is what takes of the room for longer than a moment.
func (r *Report) Counted() int64 {
	return max(0, r.Total-r.Free-r.Temporary-max(0, r.Queue-r.QueueMost))
}

// Used is Counted as a percentage of the room.
func (r *Report) Used() float64 {
	if r.Room() <= 0 {
		return 0
	}
	return 100 * float64(r.Counted()) / float64(r.Room())
}

// Cut is a cut that is due: data of the kind before Floor (milliseconds since 1970, a full day) goes.
type Cut struct {
	Kind   command.Kind
	Floor  int64
	Reason command.CutReason
	Why    string // for the log
}

// ByAge returns the cuts that time has made due. floor tells the present floor of a kind.
func ByAge(p *Policy, now int64, floor func(command.Kind) int64) (cuts []Cut) {
	for _, k := range command.Kinds {
		if at := startOfDay(now - p.Of(k).AgeMs); at > 0 && at > floor(k) {
			cuts = append(cuts, Cut{Kind: k, Floor: at, Reason: command.CutAge, Why: "age"})
		}
	}
	return cuts
}

func startOfDay(ms int64) int64 { return ms / DayMs * DayMs }

// slack is how far below a line cuts go, in percent of the room.
const slack = 2

// ByRoom returns the cuts that the reports ask for: the union of what each disk needs. Usually a disk gives one day at
// a time, since how much a day frees is known only afterwards; where it is urgent, as many as are thought to be needed.
func ByRoom(p *Policy, now int64, reports []Report) (cuts []Cut) {
	if p.Limit == 0 {
		return nil
	}
	best := make(map[command.Kind]Cut)
	for i := range reports {
		r := &reports[i]
		if r.Pending || r.Installing || r.Room() <= 0 {
			continue
		}
		s := newShrink(p, now, r)
		s.toShares()
		s.toLimit()
		for _, c := range s.cuts {
			if c.Floor > best[c.Kind].Floor {
				best[c.Kind] = c
			}
		}
	}
	for _, k := range command.Kinds {
		if c, ok := best[k]; ok {
			cuts = append(cuts, c)
		}
	}
	return cuts
}

// shrink finds what goes from one disk.
type shrink struct {
	p      *Policy
	r      *Report
	newest int64 // day from which on nothing goes
	left   map[command.Kind][]DayBytes
	bytes  map[command.Kind]int64
	freed  int64
	taken  int
	most   int // days at once
	cuts   map[command.Kind]Cut
}

func newShrink(p *Policy, now int64, r *Report) *shrink {
	s := &shrink{
		p: p, r: r, newest: startOfDay(now-p.KeepMs) / DayMs, most: 1, left: make(map[command.Kind][]DayBytes),
		bytes: make(map[command.Kind]int64), cuts: make(map[command.Kind]Cut),
	}
	for _, k := range command.Kinds {
		days := slices.Clone(r.Days[k.String()])
		slices.SortFunc(days, func(a, b DayBytes) int { return int(a.Day - b.Day) })
		s.left[k], s.bytes[k] = days, r.Kinds[k.String()]
	}
	if Urgent(p, r) {
		s.most = math.MaxInt
	}
	return s
}

// Urgent reports whether a disk has come a third of the way from the limit to its end.
func Urgent(p *Policy, r *Report) bool {
	limit := r.Room() / 100 * int64(p.Limit)
	return p.Limit != 0 && r.Counted() > limit+(r.Room()-limit)/3
}

func (s *shrink) share(percent int) int64 { return s.r.Room() / 100 * int64(percent) }

// oldest reports whether the kind has a day that may go.
func (s *shrink) oldest(k command.Kind) bool {
	return len(s.left[k]) > 0 && s.left[k][0].Day < s.newest
}

// take lets the oldest day of the kind go.
func (s *shrink) take(k command.Kind, why string) {
	d := s.left[k][0]
	s.left[k] = s.left[k][1:]
	s.freed += d.Bytes
	s.bytes[k] -= d.Bytes
	s.taken++
	s.cuts[k] = Cut{Kind: k, Floor: (d.Day + 1) * DayMs, Reason: command.CutSize, Why: why}
}

// toShares lets days of kinds go that take more than their share.
func (s *shrink) toShares() {
	for _, k := range command.Kinds {
		most := s.share(s.p.Of(k).Share)
		if s.bytes[k] <= most {
			continue
		}
		why := fmt.Sprintf("%s take %d MiB of the disk of node %s, their share is %d", k, s.bytes[k]>>20, s.r.Node, most>>20)
		for low := most - min(s.share(slack), most/10); s.bytes[k] > low && s.oldest(k) && s.taken < s.most; {
			s.take(k, why)
		}
	}
}

// toLimit lets days go until the disk is below the limit.
func (s *shrink) toLimit() {
	limit := s.share(s.p.Limit)
	if s.r.Counted() <= limit {
		return
	}
	why := fmt.Sprintf("the disk of node %s is %.0f %% full, the limit is %d", s.r.Node, s.r.Used(), s.p.Limit)
	for low := limit - s.share(slack); s.r.Counted()-s.freed > low && s.taken < s.most; {
		if s.foreign() {
			return
		}
		k, ok := s.greediest()
		if !ok {
			return
		}
		s.take(k, why)
	}
}

// foreign reports whether what fills the disk are files of others, and enough was given up for them: a quarter of the
// room stays ours.
func (s *shrink) foreign() bool {
	return s.r.Counted()-s.r.Foreign() <= s.share(s.p.Limit) && s.r.Stored()-s.freed <= s.share(25)
}

// greediest is the kind, among those with a day that may go, that takes most for its share.
func (s *shrink) greediest() (kind command.Kind, ok bool) {
	most := -1.0
	for _, k := range command.Kinds {
		if !s.oldest(k) {
			continue
		}
		if w := float64(s.bytes[k]) / float64(s.p.Of(k).Share); w > most {
			kind, most, ok = k, w, true
		}
	}
	return kind, ok
}

// State says how a disk stands to the policy.
type State string

// States of a disk.
const (
	StateOK      State = "ok"
	StateWarning State = "warning" // beyond the line of the warning
	StateCutting State = "cutting" // beyond the limit: days go
	StateStuck   State = "stuck"   // beyond the limit, and no cut helps
	StateUnknown State = "unknown" // the node does not answer
)

// Judge says how the disk of a report stands to the policy, and why it is stuck.
func Judge(p *Policy, now int64, r *Report) (State, string) {
	switch used := r.Used(); {
	case p.Limit != 0 && used > float64(p.Limit):
		if r.Pending {
			return StateCutting, ""
		}
		s := newShrink(p, now, r)
		s.toShares()
		s.toLimit()
		switch {
		case len(s.cuts) > 0:
			return StateCutting, ""
		case s.foreign():
			return StateStuck, "files that are not Triward's fill the disk; no more data is given up for them"
		default:
			return StateStuck, "the data that is always kept fills the disk"
		}
	case used > float64(p.Warn):
		return StateWarning, ""
	}
	return StateOK, ""
}

// sampleDays is how many of the last whole days say how fast a disk fills.
const sampleDays = 7

// Outlook returns what a disk gets in a day, and after how many days the limit is reached: -1 when it is not, since age
// takes as much by then, or when there is no whole day yet to go by.
func Outlook(p *Policy, now int64, r *Report) (perDay int64, days int) {
	today := now / DayMs
	type pace struct{ rate, kept, most int64 }
	var paces []pace
	for _, k := range command.Kinds {
		var sum, n, first int64
		for _, d := range r.Days[k.String()] {
			if first == 0 || d.Day < first {
				first = d.Day
			}
			if d.Day < today && d.Day >= today-sampleDays {
				sum += d.Bytes
				n++
			}
		}
		if n == 0 {
			continue
		}
		paces = append(paces, pace{sum / n, today - first + 1, p.Of(k).AgeMs/DayMs + 1})
		perDay += sum / n
	}
	limit := p.Limit
	if limit == 0 {
		limit = 100
	}
	left := r.Room()/100*int64(limit) - r.Counted()
	if perDay == 0 {
		return 0, -1
	}
	const horizon = 3650
	for d := range horizon {
		if left <= 0 {
			return perDay, d
		}
		for _, k := range paces {
			if k.kept+int64(d) < k.most {
				left -= k.rate
			}
		}
	}
	return perDay, -1
}
