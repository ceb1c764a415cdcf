package repair

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/raftstate"
)

// told collects what a Service tells.
type told struct {
	mu      sync.Mutex
	found   []string
	mended  []string
	refused []string
}

func (o *told) tell(node string, r Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.Open() {
		o.found = append(o.found, node+" "+r.Place)
		return
	}
	o.mended = append(o.mended, node+" "+r.Place)
}

func service(t *testing.T, dir string, o *told, mend func() error) *Service {
	t.Helper()
	var s *Service
	s, err := New(Config{
		Node: "n1", Dir: dir, Tell: o.tell,
		TellRefused: func(node, why string, _ Damage) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.refused = append(o.refused, node+" "+why)
		},
		Mend: func(context.Context, func(context.Context) error) error {
			err := mend()
			if err == nil {
				s.Replacing(imageParts)
				s.Done(raftstate.Repaired{Parts: imageParts, How: raftstate.HowImage, From: "n2"})
			}
			return err
		},
		MendLog: func(context.Context) error { return nil },
		Lease:   func(context.Context, time.Duration) error { return nil }, Release: func(context.Context, bool) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDamageIsMendedInTheEnd: what fails is tried again, told once, and known again after a start.
func TestDamageIsMendedInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, o := t.TempDir(), &told{}
		tries := 0
		s := service(t, dir, o, func() error {
			if tries++; tries < 4 {
				return errors.New("nobody is whole")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		synctest.Wait() // what it knows from before it has told
		d := Damage{Part: raftstate.PartLogs, Place: "logs of a day", From: 1, To: 2}
		s.Found(d)
		s.Found(d)
		time.Sleep(time.Second)
		if err := s.Check(t.Context()); err == nil || s.Status().State != StateRefused || s.Status().Refused != "nobody is whole" {
			t.Errorf("%v, %+v", err, s.Status())
		}
		again := service(t, dir, &told{}, func() error { return nil }) // another start meanwhile
		if known := again.Known(); len(known) != 1 || known[0].Place != d.Place {
			t.Errorf("known after a start: %v", known)
		}
		time.Sleep(time.Minute)
		st := s.Status()
		if err := s.Check(t.Context()); err != nil || st.State != StateWhole || len(st.History) != 1 || st.History[0].From != "n2" || tries != 4 {
			t.Errorf("%v after %d tries, %+v", err, tries, st)
		}
		if len(o.found) != 1 || len(o.mended) != 1 || len(o.refused) != 1 {
			t.Errorf("told: %+v", o)
		}
		cancel()
		wg.Wait()
	})
}

// A lease that came although its node heard of no leader, and whose damage was mended otherwise, is given back at once: the
// others wait for it.
func TestLeaseOfUnknownOutcomeIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := service(t, t.TempDir(), &told{}, func() error { return nil })
		d := Damage{Part: raftstate.PartLog, Place: "log"}
		var mu sync.Mutex
		held := false
		s.cfg.Lease = func(context.Context, time.Duration) error {
			s.Mended(d.Part, d.Place, raftstate.HowLogAside) // by what the start of the node set going
			time.AfterFunc(time.Second, func() {
				mu.Lock()
				defer mu.Unlock()
				held = true
			})
			return errors.New("no leader is known")
		}
		s.cfg.Release = func(context.Context, bool) {
			mu.Lock()
			defer mu.Unlock()
			held = false
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		synctest.Wait()
		s.Found(d)
		time.Sleep(1500 * time.Millisecond)
		mu.Lock()
		if !held {
			t.Error("there is no lease to give back")
		}
		mu.Unlock()
		time.Sleep(leaseCheck)
		mu.Lock()
		if held || s.Check(t.Context()) != nil {
			t.Errorf("lease %v, %+v", held, s.Status())
		}
		mu.Unlock()
		cancel()
		wg.Wait()
	})
}

// TestOtherNodesAreHeard: a node that asks for help is told of by those it asks, as it may not be able to itself.
func TestOtherNodesAreHeard(t *testing.T) {
	o := &told{}
	s := service(t, t.TempDir(), o, func() error { return nil })
	said := raftstate.PeerRepair{Node: "n2", Refused: "a majority is damaged", Damage: []Damage{{Part: raftstate.PartState, Place: "meta.db", FoundMs: 7}}}
	s.Heard("n2", said)
	s.Heard("n2", said)
	if st, ok := s.Of("n2"); !ok || st.State != StateRefused || len(st.Damage) != 1 || len(o.refused) != 1 {
		t.Errorf("%+v, %v, %+v", st, ok, o)
	}
	if _, ok := s.Of("n3"); ok {
		t.Error("n3 said nothing")
	}
}

// TestOrders: a file names the node to take from until a repair is done; one that is not good keeps the node from starting.
func TestOrders(t *testing.T) {
	dir := t.TempDir()
	if err := WriteOrder(dir, "../n3"); err == nil {
		t.Error("taken as a node")
	}
	if err := WriteOrder(dir, "n3"); err != nil {
		t.Fatal(err)
	}
	s := service(t, dir, &told{}, func() error { return nil })
	if s.From() != "n3" {
		t.Errorf("from %q", s.From())
	}
	s.Done(raftstate.Repaired{Parts: []string{raftstate.PartState}, How: raftstate.HowImage})
	if s.From() != "" || service(t, dir, &told{}, nil).From() != "" {
		t.Error("the order is still there")
	}
}

// TestJournalIsBounded: the oldest that is repaired goes, and what is open stays.
func TestJournalIsBounded(t *testing.T) {
	s := service(t, t.TempDir(), &told{}, func() error { return nil })
	for i := range maxRecords + 50 {
		place := time.Duration(i).String()
		s.Found(Damage{Part: raftstate.PartIndex, Place: place})
		if i%2 == 0 {
			s.Mended(raftstate.PartIndex, place, "rebuilt")
		}
	}
	if n := len(s.journal.Records); n > maxRecords {
		t.Errorf("%d records", n)
	}
}
