package meta

import (
	"encoding/binary"
	"slices"

	"github.com/triward/triward/agent/wire"
)

// agent is what was received of an agent. One whose gen is not that of the live layer is copied before it
// changes, because a commit may be reading it.
type agent struct {
	name   string
	num    uint32
	gen    uint64
	open   bool
	epoch  wire.Epoch
	lanes  [len(wire.Lanes) + 1]laneState // by lane; 0 is not used
	closed []wire.Epoch                   // in the order they were closed; only appended to
	series uint32
	clones uint64
}

type laneState struct{ seq, hash uint64 }

func (a *agent) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(a.num))
	open := byte(0)
	if a.open {
		open = 1
	}
	dst = append(dst, open)
	dst = append(dst, a.epoch[:]...)
	for _, l := range a.lanes[1:] {
		dst = binary.AppendUvarint(dst, l.seq)
		dst = binary.LittleEndian.AppendUint64(dst, l.hash)
	}
	dst = binary.AppendUvarint(dst, uint64(a.series))
	dst = binary.AppendUvarint(dst, a.clones)
	dst = binary.AppendUvarint(dst, uint64(len(a.closed)))
	for _, e := range a.closed {
		dst = append(dst, e[:]...)
	}
	return dst
}

func (f *fields) agent(name string) (*agent, error) {
	a := &agent{name: name, num: uint32(f.uvarint("agent's number"))}
	a.open = f.uvarint("open flag") == 1
	copy(a.epoch[:], f.bytes(len(a.epoch), "epoch"))
	for i := range a.lanes[1:] {
		a.lanes[i+1] = laneState{f.uvarint("sequence"), f.uint64("hash")}
	}
	a.series = uint32(f.uvarint("series count"))
	a.clones = f.uvarint("clones")
	n := f.uvarint("count of closed epochs")
	if n > uint64(len(f.b)/len(a.epoch)) {
		f.fail("count of closed epochs")
		n = 0
	}
	a.closed = make([]wire.Epoch, n)
	for i := range a.closed {
		copy(a.closed[i][:], f.bytes(len(a.epoch), "closed epoch"))
	}
	return a, f.end("agent")
}

func (a *agent) epochState(e wire.Epoch) EpochState {
	switch {
	case a.open && a.epoch == e:
		return EpochOpen
	case slices.Contains(a.closed, e):
		return EpochClosed
	}
	return EpochNew
}

// Agent returns what was received of an agent; false when it never opened an epoch, registered series nor delivered.
func (s *Store) Agent(name string) (AgentState, bool) {
	s.tabMu.RLock()
	defer s.tabMu.RUnlock()
	a := s.agents[name]
	if a == nil {
		return AgentState{}, false
	}
	return AgentState{
		Agent: name, Open: a.open, Epoch: a.epoch, Last: a.last(), Closed: len(a.closed),
		Series: int(a.series), Clones: a.clones,
	}, true
}

// Agents calls fn with each agent in order of its id until fn returns false.
func (s *Store) Agents(fn func(a AgentState) bool) {
	s.tabMu.RLock()
	names := make([]string, 0, len(s.agents))
	for name := range s.agents {
		names = append(names, name)
	}
	s.tabMu.RUnlock()
	slices.Sort(names)
	for _, name := range names {
		if a, ok := s.Agent(name); ok && !fn(a) {
			return
		}
	}
}

// LastSeqs returns what the cluster knows of an agent's epoch and, when it is open, the last sequence applied
// of each lane (0 none).
func (s *Store) LastSeqs(name string, e wire.Epoch) (last map[wire.Lane]uint64, st EpochState) {
	s.tabMu.RLock()
	defer s.tabMu.RUnlock()
	a := s.agents[name]
	if a == nil {
		return nil, EpochNew
	}
	if st = a.epochState(e); st == EpochOpen {
		last = a.last()
	}
	return last, st
}

func (a *agent) last() map[wire.Lane]uint64 {
	m := make(map[wire.Lane]uint64, len(wire.Lanes))
	for _, l := range wire.Lanes {
		m[l] = a.lanes[l].seq
	}
	return m
}

// AgentCount returns the number of agents known.
func (tx *Tx) AgentCount() int { return len(tx.s.agents) }

// EpochState returns what is known of an agent's epoch.
func (tx *Tx) EpochState(name string, e wire.Epoch) EpochState {
	if a := tx.s.agents[name]; a != nil {
		return a.epochState(e)
	}
	return EpochNew
}

// HasAgent reports whether the agent is known.
func (tx *Tx) HasAgent(name string) bool { return tx.s.agents[name] != nil }

// KnowAgent makes the agent known, with nothing of it, unless it is.
func (tx *Tx) KnowAgent(name string) {
	if tx.HasAgent(name) {
		return
	}
	tx.s.tabMu.Lock()
	defer tx.s.tabMu.Unlock()
	tx.agent(name)
}

// ForgetAgent removes an agent that has no series. Its number is not given out again.
func (tx *Tx) ForgetAgent(name string) {
	s := tx.s
	s.tabMu.Lock()
	defer s.tabMu.Unlock()
	a := s.agents[name]
	if a == nil {
		return
	}
	delete(s.agents, name)
	s.names[a.num] = ""
	s.live.agents[name] = nil
}

// ClosedEpochs returns how many epochs of the agent are closed.
func (tx *Tx) ClosedEpochs(name string) int {
	if a := tx.s.agents[name]; a != nil {
		return len(a.closed)
	}
	return 0
}

// Lane returns sequence and hash of the last batch of the agent's open epoch; 0 when there was none.
func (tx *Tx) Lane(name string, l wire.Lane) (seq, hash uint64) {
	a := tx.s.agents[name]
	return a.lanes[l].seq, a.lanes[l].hash
}

// Advance makes seq the last batch of the lane.
func (tx *Tx) Advance(name string, l wire.Lane, seq, hash uint64) {
	tx.s.tabMu.Lock()
	defer tx.s.tabMu.Unlock()
	tx.agent(name).lanes[l] = laneState{seq, hash}
}

// CountClone counts a batch that was refused because its number had come with other content.
func (tx *Tx) CountClone(name string) {
	tx.s.tabMu.Lock()
	defer tx.s.tabMu.Unlock()
	tx.agent(name).clones++
}

// OpenEpoch closes the agent's epoch and opens e, which must be new, with all lanes at the beginning.
func (tx *Tx) OpenEpoch(name string, e wire.Epoch) {
	tx.s.tabMu.Lock()
	defer tx.s.tabMu.Unlock()
	a := tx.agent(name)
	if a.open {
		a.closed = append(slices.Clip(a.closed), a.epoch)
	}
	a.open, a.epoch, a.lanes = true, e, [len(wire.Lanes) + 1]laneState{}
}

// agent returns the agent for change, made when it is not known. tabMu is held.
func (tx *Tx) agent(name string) *agent {
	s := tx.s
	a := s.agents[name]
	switch {
	case a == nil:
		s.nextAgent++
		a = &agent{name: name, num: s.nextAgent}
		for len(s.names) <= int(a.num) {
			s.names = append(s.names, "")
		}
		s.names[a.num] = name
	case a.gen == s.gen:
		return a
	default:
		fresh := *a
		a = &fresh
	}
	a.gen = s.gen
	s.agents[name] = a
	s.live.agents[name] = a
	return a
}
