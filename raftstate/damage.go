package raftstate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Parts of a node that can be damaged.
const (
	PartLog     = "log"     // raft's log and its small storage
	PartState   = "state"   // the metadata file, and the file that names the data in use
	PartMetrics = "metrics" // the store of samples
	PartLogs    = "logs"    // the store of lines
	PartIndex   = "index"   // word indexes, which each node makes again by itself
)

// Damage is a place of this node's data that is not what was written.
type Damage struct {
	Part string `json:"part"`
	Kind string `json:"kind,omitempty"` // metrics, logs or events, when only one is concerned
	// From and To bound the times of the data concerned, in milliseconds since 1970, inclusive; both 0 when not known.
	From  int64  `json:"from_ms,omitempty"`
	To    int64  `json:"to_ms,omitempty"`
	Place string `json:"place"` // a file, a key, a day
	// FoundMs is when it was found, in milliseconds since 1970; set by whoever keeps it.
	FoundMs int64  `json:"found_ms,omitempty"`
	Err     string `json:"error"`
}

// String names the damage.
func (d Damage) String() string { return fmt.Sprintf("%s: %s: %s", d.Part, d.Place, d.Err) }

// Overlaps reports whether both may concern the same data. What is not known may.
func (d Damage) Overlaps(o Damage) bool {
	if d.Part != o.Part || d.Kind != "" && o.Kind != "" && d.Kind != o.Kind {
		return false
	}
	if d.From == 0 && d.To == 0 || o.From == 0 && o.To == 0 {
		return true
	}
	return d.From <= o.To && o.From <= d.To
}

// inImage reports whether an image of a node with the damage would have it too.
func (d Damage) inImage() bool {
	return d.Part == PartState || d.Part == PartMetrics || d.Part == PartLogs
}

// Repaired says how damage ended.
type Repaired struct {
	Parts []string `json:"parts"`
	// Places are those that are mended, of Parts; nil when the repair was of all that was known of them.
	Places []string `json:"places,omitempty"`
	// How: image (the state of another node was taken), log_cut, log_set_aside, log_dropped (entries that are in the state already),
	// log_filled (nothing is missing: the entries were the same on another node, or the others hold no more), pointer.
	How   string        `json:"how"`
	From  string        `json:"from,omitempty"` // node that the data came from
	Index uint64        `json:"index,omitempty"`
	Bytes int64         `json:"bytes,omitempty"` // transferred
	Took  time.Duration `json:"took"`
	Aside string        `json:"aside,omitempty"` // directory where what was damaged lies
}

// imageParts is what an image of another node replaces, and what is made anew from it.
var imageParts = []string{PartState, PartMetrics, PartLogs, PartIndex}

// Ways in which damage ends.
const (
	HowImage     = "image"
	HowLogCut    = "log_cut"
	HowLogAside  = "log_set_aside"
	HowLogDrop   = "log_dropped"
	HowLogFilled = "log_filled"
	HowPointer   = "pointer"
	HowRecheck   = "recheck" // it was read again and is what was accepted
)

// Repairs knows the damage of a node and is told of it. Its methods may be called from any goroutine, also before
// Open has returned, and must not block.
type Repairs interface {
	// Found is told of damage, before anything is done about it.
	Found(d Damage)
	// Known lists the damage that is not repaired yet. An image of what is damaged is given to nobody.
	Known() []Damage
	// Doing says what a repair is at; done and total are bytes, 0 when they say nothing.
	Doing(what string, done, total int64)
	// Replacing is told immediately before other data takes the place of that of some parts: what is found from then on is
	// damage of the new data. A Done with HowImage ends what was known by then.
	Replacing(parts []string)
	// Done is told that damage is repaired.
	Done(r Repaired)
	// From names the node that an operator wants the data taken from, also when a majority is damaged; "" when none.
	From() string
	// Tried lists the nodes whose state was taken for what is damaged now and did not help.
	Tried() []string
	// Whole compares what this node holds with what the cluster accepted, where the asker is damaged.
	Whole(ctx context.Context, asker []Damage) error
	// Heard is told what another node, which asks for help, says of its damage.
	Heard(node string, said PeerRepair)
}

// ErrMajority says that a majority of the voters is damaged in the same place, which is not repaired without a person.
var ErrMajority = errors.New("the same data is damaged on a majority of the nodes")

// ErrNoGiver says that no member can give a whole state now.
var ErrNoGiver = errors.New("no member can give its state now")

// mends reports whether this node repairs itself: there is whom to ask.
func (n *Node) mends() bool {
	if n.cfg.Repairs == nil {
		return false
	}
	return slices.ContainsFunc(n.lastMembers(), func(m rosterMember) bool { return m.Voter && m.ID != n.cfg.NodeID })
}

// damageOf makes the damage of an error that stops a start; false when it is none that a peer can mend.
func damageOf(err error) (Damage, bool) {
	var fatal *FatalError
	if !errors.As(err, &fatal) || fatal.Code != ExitDamaged || errors.Is(err, ErrVersion) || errors.Is(err, errForeign) {
		return Damage{}, false
	}
	d := Damage{Part: PartState, Place: fatal.Part, Err: fatal.Err.Error()}
	switch fatal.Part {
	case partMetrics:
		d.Part, d.Kind = PartMetrics, "metrics"
	case partLogs:
		d.Part = PartLogs
	case "log":
		d.Part = PartLog
	}
	if len(d.Err) > maxDamageText {
		d.Err = d.Err[:maxDamageText]
	}
	var placed interface {
		DamagedPlace() (place string, from, to int64)
	}
	if errors.As(err, &placed) {
		d.Place, d.From, d.To = placed.DamagedPlace()
	}
	return d, true
}

const (
	partMetrics   = "store of metrics"
	partLogs      = "store of logs"
	maxDamageText = 1 << 10
)

// errForeign says that the data is of another node, which no repair mends.
var errForeign = errors.New("data of another node")

// sharedDamage returns an error when a majority of the voters, this node among them, is damaged in the same place.
func sharedDamage(self string, members []rosterMember, own []Damage, said map[string]PeerRepair) error {
	voters := 0
	for _, m := range members {
		if m.Voter {
			voters++
		}
	}
	for _, d := range own {
		if !d.inImage() {
			continue
		}
		names := []string{fmt.Sprintf("node %s: %s", self, d.Place)}
		for _, m := range members {
			if !m.Voter || m.ID == self {
				continue
			}
			if i := slices.IndexFunc(said[m.ID].Damage, d.Overlaps); i >= 0 {
				names = append(names, fmt.Sprintf("node %s: %s", m.ID, said[m.ID].Damage[i].Place))
			}
		}
		if len(names) > voters/2 && len(names) > 1 {
			return fmt.Errorf("%w: %s of %s (run `triward cluster repair --from NODE` with a node that is whole)", ErrMajority, d.Part, strings.Join(names, "; "))
		}
	}
	return nil
}
