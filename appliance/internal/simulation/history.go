package simulation

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Record is one thing that happened. Kind says which fields mean something.
type Record struct {
	Kind string `json:"k"`
	At   int64  `json:"at"`            // when it was over, in nanoseconds of virtual time since the start
	Call int64  `json:"call,omitzero"` // when it began
	Node string `json:"n,omitzero"`
	Life int    `json:"life,omitzero"` // which start of the node

	Client int    `json:"c,omitzero"`
	Key    string `json:"key,omitzero"`  // of the metadata; "agent/lane" of a batch and of a look at a sequence
	From   string `json:"from,omitzero"` // value that a compare asks for; "" absent
	To     string `json:"to,omitzero"`   // value that is written or was read
	Out    string `json:"out,omitzero"`  // one of the outcomes
	Seq    uint64 `json:"seq,omitzero"`
	Index  uint64 `json:"i,omitzero"`
	Term   uint64 `json:"term,omitzero"`
	Sum    string `json:"sum,omitzero"`
	Time   int64  `json:"t,omitzero"` // log time, milliseconds since 1970
	Text   string `json:"text,omitzero"`

	Samples []Sample `json:"samples,omitzero"`
	Lines   []Line   `json:"lines,omitzero"`
}

// Kinds of records.
const (
	kindPlan    = "plan"    // Text: the plan as JSON
	kindFault   = "fault"   // Text: what was done
	kindBatch   = "batch"   // an attempt to send a batch
	kindData    = "data"    // what a batch carries; Samples, Lines without a place
	kindSet     = "set"     // a metadata key written when its value was From
	kindGet     = "get"     // linearizable read of a key
	kindSeen    = "seen"    // linearizable look at the last sequence of a lane
	kindToken   = "token"   // a key made with an end: Time is when it ends, 0 never
	kindGone    = "gone"    // whether the key is there at the end: Out ok or absent; Time is the log time of the look
	kindApplied = "applied" // an observer was told: Index, Time, Sum of the digests
	kindEntry   = "entry"   // committed entry as a node reads it: Index, Term, Sum
	kindUp      = "up"
	kindDown    = "down"    // Text: why
	kindRefused = "refused" // a node could not be started: Text
	kindHealed  = "healed"  // from here on nothing is wrong
	kindEven    = "even"    // all nodes hold the same log; Out timeout when they never did
	kindFinal   = "final"   // Samples, Lines, Sum of the digests, Time of the floor of metrics in Seq
	kindState   = "state"   // Index and Sum of the deciding state
	kindReplay  = "replay"  // the log applied anew: Index, Sum, Text how
	kindEnd     = "end"
)

// installed is the text of an applied record that stands for the image of another node.
const installed = "installed"

// Outcomes.
const (
	outOK        = "ok"
	outDuplicate = "duplicate"
	outConflict  = "conflict"
	outFail      = "fail" // certainly nothing happened
	outUnknown   = "unknown"
	outAbsent    = "absent"
	outTimeout   = "timeout"
)

// History is what happened in one run, in the order in which it was noted.
type History struct {
	Records []Record
}

// recorder gathers a history.
type recorder struct {
	start time.Time
	mu    sync.Mutex
	h     History
}

func (r *recorder) now() int64 { return int64(time.Since(r.start)) }

func (r *recorder) add(rec Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.At = r.now()
	r.h.Records = append(r.h.Records, rec)
}

// WriteTo writes the history, a record a line.
func (h *History) WriteTo(w io.Writer) (int64, error) {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	for i := range h.Records {
		if err := enc.Encode(&h.Records[i]); err != nil {
			return 0, fmt.Errorf("write history: %w", err)
		}
	}
	return 0, b.Flush()
}

// Save writes the history to a file.
func (h *History) Save(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	_, err = h.WriteTo(f)
	return errors.Join(err, f.Close())
}

// ReadHistory reads what Save wrote.
func ReadHistory(path string) (*History, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	defer f.Close()
	h := &History{}
	dec := json.NewDecoder(bufio.NewReader(f))
	for {
		var r Record
		err := dec.Decode(&r)
		if errors.Is(err, io.EOF) {
			return h, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read history %s, record %d: %w", path, len(h.Records)+1, err)
		}
		h.Records = append(h.Records, r)
	}
}
