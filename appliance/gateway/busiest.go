package gateway

import (
	"sync"
	"time"

	"github.com/triward/triward/appliance/auth"
)

const (
	shareSpan  = 30 * time.Second // over which what agents send is counted
	shareTells = time.Minute      // between two words on who sends most
	shareMost  = 256              // agents that are counted at once
	shareWorth = 0.25             // of all bytes: below this no single agent is to blame
)

// busiest knows which agent sends most to this node, so that whoever is refused for want of room, and whoever has to
// mend it, learn why. It counts bodies as they come, also those that are refused, in two spans of time.
type busiest struct {
	mu      sync.Mutex
	began   time.Time
	now     span
	before  span
	toldAt  time.Time
	refused int64 // requests since the last word
}

// span is what came in a span of time. When it is full, an agent that is new takes the place, and the count, of the one
// that sent least: who sends much is counted too high rather than not at all.
type span struct {
	all int64
	by  map[string]*share
}

type share struct {
	agent *auth.Agent
	bytes int64
}

// note counts a body of n bytes; -1 is one whose length is not known.
func (b *busiest) note(agent *auth.Agent, n int64, now time.Time) {
	n = max(n, 0)
	b.mu.Lock()
	defer b.mu.Unlock()
	if age := now.Sub(b.began); age > shareSpan {
		b.before = b.now
		if age > 2*shareSpan {
			b.before = span{}
		}
		b.now, b.began = span{by: make(map[string]*share)}, now
	}
	b.now.all += n
	s := b.now.by[agent.ID]
	if s == nil {
		s = &share{}
		if len(b.now.by) >= shareMost {
			least := ""
			for id, o := range b.now.by {
				if least == "" || o.bytes < b.now.by[least].bytes {
					least = id
				}
			}
			s.bytes = b.now.by[least].bytes
			delete(b.now.by, least)
		}
		b.now.by[agent.ID] = s
	}
	s.agent, s.bytes = agent, s.bytes+n
}

// refuse counts a request that was refused for want of room. It returns who sends most, with the part of all bytes, when
// it is time for a word on it and one agent stands out; nil otherwise.
func (b *busiest) refuse(now time.Time) (agent *auth.Agent, part float64, refused int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused++
	if now.Sub(b.toldAt) < shareTells {
		return nil, 0, 0
	}
	all := b.now.all + b.before.all
	var most int64
	for _, in := range []span{b.now, b.before} {
		for id, s := range in.by {
			sum := s.bytes
			if other := b.before.by[id]; in.by[id] != other && other != nil {
				sum += other.bytes
			}
			if sum > most {
				most, agent = sum, s.agent
			}
		}
	}
	if agent == nil || all == 0 || float64(most) < shareWorth*float64(all) {
		return nil, 0, 0
	}
	refused, b.refused, b.toldAt = b.refused, 0, now
	return agent, min(1, float64(most)/float64(all)), refused
}

// tellBusy says in the log, and to whom it may concern, who sends most while requests are refused for want of room.
func (g *Gateway) tellBusy() {
	agent, part, refused := g.busiest.refuse(time.Now())
	if agent == nil {
		return
	}
	g.opts.Log.Warn("more comes than this node takes", "refused", refused, "most_from", agent.Hostname, "agent", agent.ID, "percent", int(100*part))
	if g.opts.OnOverload != nil {
		g.opts.OnOverload(agent, part)
	}
}
