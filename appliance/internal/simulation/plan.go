package simulation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Plan is what a seed stands for: how a cluster is set up, who uses it, and what goes wrong when.
type Plan struct {
	Seed         uint64
	Size         int
	MarkInterval time.Duration
	QueueBytes   int64
	LogCache     int64
	Writers      int
	Pace         time.Duration // of writers
	Duration     time.Duration // until everything is healed
	Faults       []Fault
}

// Fault is one thing that is done. Nodes are numbers, which the run takes modulo the nodes that there are; leader (-1)
// is whoever leads at that moment.
type Fault struct {
	At    time.Duration
	Kind  FaultKind
	Nodes []int
	For   time.Duration
	Power bool // a kill takes what was not durable
	Delay time.Duration
	Loss  float64
	Twice float64
}

// FaultKind says what is done.
type FaultKind string

// leader stands for the node that leads.
const leader = -1

// Faults.
const (
	faultKill      FaultKind = "kill"      // the nodes, started again after For
	faultStop      FaultKind = "stop"      // in good order
	faultWipe      FaultKind = "wipe"      // the node's data is gone
	faultSplit     FaultKind = "split"     // the nodes from the others
	faultOneWay    FaultKind = "one-way"   // nothing of the nodes reaches the others
	faultDeaf      FaultKind = "deaf"      // nothing of the others reaches the nodes
	faultFlap      FaultKind = "flap"      // the nodes come and go
	faultLossy     FaultKind = "lossy"     // all links lose, delay and repeat
	faultSlowDisk  FaultKind = "slow-disk" // syncs take up to Delay
	faultHungDisk  FaultKind = "hung-disk" // syncs do not end
	faultEIO       FaultKind = "eio"       // the next sync fails
	faultFullDisk  FaultKind = "full-disk" // the log's file system is full
	faultFullStore FaultKind = "full-store"
	faultClock     FaultKind = "clock" // jumps by Delay
	faultPause     FaultKind = "pause" // as SIGSTOP does
	faultTransfer  FaultKind = "transfer"
	faultMark      FaultKind = "mark"    // an export, which makes a mark
	faultCut       FaultKind = "cut"     // retention
	faultRemove    FaultKind = "remove"  // of a member, which joins again after For
	faultSpare     FaultKind = "spare"   // one node more joins, and is taken out after For
	faultInstall   FaultKind = "install" // images break off midway for a while
)

// kindsOfFaults is from what plans are drawn, with weights.
var kindsOfFaults = []struct {
	kind   FaultKind
	weight int
}{
	{faultKill, 22}, {faultStop, 4}, {faultWipe, 6}, {faultSplit, 12}, {faultOneWay, 5}, {faultDeaf, 5}, {faultFlap, 4},
	{faultLossy, 8}, {faultSlowDisk, 5}, {faultHungDisk, 3}, {faultEIO, 3}, {faultFullDisk, 4}, {faultFullStore, 3},
	{faultClock, 6}, {faultPause, 8}, {faultTransfer, 7}, {faultMark, 8}, {faultCut, 4}, {faultRemove, 4}, {faultSpare, 4},
	{faultInstall, 4},
}

// NewPlan draws the plan of a seed.
func NewPlan(seed uint64) *Plan {
	r := rand.New(rand.NewPCG(seed, 0x7269776172642121))
	p := &Plan{Seed: seed, Size: 3, MarkInterval: time.Second, QueueBytes: 1, LogCache: 1, Writers: 2}
	switch n := r.IntN(20); {
	case n == 0:
		p.Size = 1
	case n < 3:
		p.Size = 5
	}
	p.MarkInterval = []time.Duration{500 * time.Millisecond, 2 * time.Second, 10 * time.Second}[r.IntN(3)]
	p.QueueBytes = []int64{1, 16 << 10, 1 << 30}[r.IntN(3)]
	if r.IntN(2) == 0 {
		p.LogCache = 1 << 20
	}
	p.Pace = time.Duration(40+r.IntN(160)) * time.Millisecond
	p.Duration = time.Duration(10+r.IntN(20)) * time.Second
	for range 3 + r.IntN(8) {
		p.Faults = append(p.Faults, p.draw(r))
	}
	slices.SortStableFunc(p.Faults, func(a, b Fault) int { return cmpInt(int64(a.At), int64(b.At)) })
	return p
}

func (p *Plan) draw(r *rand.Rand) Fault {
	f := Fault{At: time.Second + time.Duration(r.Int64N(int64(p.Duration))), Kind: p.kind(r), For: time.Duration(100+r.IntN(8000)) * time.Millisecond}
	node := func() int {
		if r.IntN(3) == 0 {
			return leader
		}
		return r.IntN(p.Size)
	}
	f.Nodes = []int{node()}
	switch f.Kind {
	case faultKill:
		f.Power = r.IntN(2) == 0
		switch r.IntN(6) {
		case 0: // all
			f.Nodes = nil
			for i := range p.Size {
				f.Nodes = append(f.Nodes, i)
			}
		case 1:
			f.Nodes = append(f.Nodes, node())
		}
	case faultSplit, faultOneWay, faultDeaf, faultFlap:
		if p.Size == 5 && r.IntN(2) == 0 {
			f.Nodes = append(f.Nodes, node())
		}
	case faultLossy:
		f.Delay = time.Duration(1+r.IntN(400)) * time.Millisecond
		f.Loss = []float64{0, 0.02, 0.1}[r.IntN(3)]
		f.Twice = []float64{0, 0.05, 0.3}[r.IntN(3)]
	case faultSlowDisk:
		f.Delay = time.Duration(50+r.IntN(1500)) * time.Millisecond
	case faultHungDisk:
		f.For = time.Duration(1+r.IntN(15)) * time.Second
	case faultClock:
		f.Delay = time.Duration(1-2*r.IntN(2)) * []time.Duration{5 * time.Minute, 3 * time.Hour, 26 * time.Hour, 400 * 24 * time.Hour}[r.IntN(4)]
	case faultPause:
		f.For = time.Duration(500+r.IntN(15_000)) * time.Millisecond
	}
	return f
}

func (p *Plan) kind(r *rand.Rand) FaultKind {
	for {
		sum := 0
		for _, k := range kindsOfFaults {
			sum += k.weight
		}
		n := r.IntN(sum)
		for _, k := range kindsOfFaults {
			if n -= k.weight; n < 0 {
				if p.possible(k.kind) {
					return k.kind
				}
				break
			}
		}
	}
}

// possible says whether a fault means anything in a cluster of the size.
func (p *Plan) possible(k FaultKind) bool {
	if p.Size > 1 {
		return true
	}
	switch k {
	case faultWipe, faultClock, faultRemove, faultSplit, faultOneWay, faultDeaf, faultFlap, faultTransfer, faultInstall:
		return false
	}
	return true
}

// String returns the plan as JSON.
func (p *Plan) String() string {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(b)
}
