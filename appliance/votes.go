package appliance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/triward/triward/raftstate"
)

// ballot is how the voters of a cluster that has no leader are.
type ballot struct {
	voters   int
	able     []string // they answer and may vote
	without  []string // they answer and have no vote, since they lost part of their data or have failed
	silent   []string // they do not answer
	furthest string   // of able, whose log reaches furthest
}

// stuck says why no leader can be elected, and what to do, when nodes without a vote are among the reasons; "" otherwise.
func (b *ballot) stuck() string {
	if len(b.able) > b.voters/2 || len(b.without) == 0 {
		return ""
	}
	text := fmt.Sprintf("%d of %d voters have a vote, and a majority is %d: %s lost part of what they acknowledged and have no vote until a leader has filled them up",
		len(b.able), b.voters, b.voters/2+1, strings.Join(b.without, ", "))
	switch {
	case len(b.silent) > 0:
		return fmt.Sprintf("%s; start %s first, which does not answer", text, strings.Join(b.silent, ", "))
	case b.furthest == "":
		return text + "; no node has a vote: restore a backup"
	}
	return fmt.Sprintf("%s; no leader can be elected without a person: stop all nodes and run `triward cluster recover` on %s, which says first what it costs", text, b.furthest)
}

// ballot asks the voters how they are.
func (a *App) ballot(ctx context.Context) ballot {
	st := a.node.Status()
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	var b ballot
	var most raftstate.Status
	var mu sync.Mutex
	var wg sync.WaitGroup
	count := func(id string, st *raftstate.Status, err error) {
		mu.Lock()
		defer mu.Unlock()
		b.voters++
		switch {
		case err != nil:
			b.silent = append(b.silent, id)
		case st.Probation || st.Fatal != "":
			b.without = append(b.without, id)
		default:
			b.able = append(b.able, id)
			if b.furthest == "" || st.LastIndex > most.LastIndex || st.LastIndex == most.LastIndex && id < b.furthest {
				b.furthest, most = id, *st
			}
		}
	}
	for _, m := range st.Members {
		switch {
		case !m.Voter:
		case m.ID == a.cfg.NodeID:
			count(m.ID, &st, nil)
		default:
			wg.Go(func() {
				peer, err := a.node.PeerStatus(ctx, m.ID)
				count(m.ID, &peer, err)
			})
		}
	}
	wg.Wait()
	for _, list := range [][]string{b.able, b.without, b.silent} {
		slices.Sort(list)
	}
	return b
}
