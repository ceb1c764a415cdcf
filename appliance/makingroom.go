package appliance

import (
	"sync"
	"time"

	"github.com/triward/triward/appliance/retention"
)

const (
	// roomPatience is for how long a disk that takes no data gains nothing before senders are told that it is full.
	roomPatience = time.Minute
	// roomGain is what counts as gained.
	roomGain = 16 << 20
	// roomLook is for how long an answer holds, so that being refused costs little.
	roomLook = 250 * time.Millisecond
)

// makingRoom says, while data is refused for want of room, whether that passes by itself: retention lets days go, or
// their files are being deleted. Its zero value is ready.
type makingRoom struct {
	mu     sync.Mutex
	asked  time.Time // last
	looked time.Time
	makes  bool
	least  int64     // that was free since something was gained last
	gained time.Time // or since when data is refused

	others struct { // of the other voters, as they were last looked at
		stuck bool
		free  int64
	}
}

// ask returns the answer; look finds out whether room is being made on this disk, and what is free of it.
func (m *makingRoom) ask(look func() (makes bool, free int64)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	begins := now.Sub(m.asked) > roomPatience // there was room meanwhile, or nobody wanted any
	m.asked = now
	if !begins && now.Sub(m.looked) < roomLook {
		return m.makes
	}
	makes, free := look()
	free += m.others.free
	if begins || free >= m.least+roomGain {
		m.least, m.gained = free, now
	}
	m.least = min(m.least, free)
	m.looked, m.makes = now, makes && !m.others.stuck && now.Sub(m.gained) < roomPatience
	return m.makes
}

// note takes over how the disks of the voters were when the leader looked.
func (m *makingRoom) note(self string, reports []retention.Report, states map[string]retention.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.others.stuck, m.others.free = false, 0
	for i := range reports {
		if r := &reports[i]; r.Node != self {
			m.others.free += r.Free
			m.others.stuck = m.others.stuck || states[r.Node] == retention.StateStuck
		}
	}
}

// makesRoom is asked by the node as the leader when it takes no data for want of room: senders are to wait while a cut
// frees some, and to be told that the disk is full when none helps.
func (k *retentionKeeper) makesRoom() bool {
	select {
	case <-k.app.opened:
	default:
		return false
	}
	return k.room.ask(func() (bool, int64) {
		r := k.app.disk.report()
		p, _, err := k.policy()
		if err != nil || p.Limit == 0 {
			return false, r.Free
		}
		state, _ := retention.Judge(&p.Policy, k.app.state.LogTime(), &r)
		return state != retention.StateStuck, r.Free // below the limit it is copies and the log that take the room, which pass
	})
}
