package raftstate

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/logfile"
)

// A full disk must not keep away what frees it. So room goes in steps: first the log lets go of all that it keeps for
// peers and readers, then the cluster takes no more data but still everything else (cuts, deletions, ticks), and only
// then nothing at all.

// roomInterval is how often a node looks whether its log must become shorter. The log cannot become shorter than up to
// the mark, so while the disk is nearly full marks are made every roomMarks instead of by the configured interval.
const (
	roomInterval = time.Second
	roomMarks    = 5 * time.Second
)

// bringsData reports whether the command makes the stores grow. What this program does not know is taken for data.
func bringsData(t command.Type) bool {
	switch t &^ command.Ignorable {
	case command.TypeSetFormat, command.TypeTick, command.TypeCollectSeries, command.TypeHeartbeats, command.TypeMetaTxn,
		command.TypeRetentionCut, command.TypeForgetAgent:
		return false
	}
	return true
}

// fullDisk says why this node takes no data for want of room; nil when it does.
func (n *Node) fullDisk() error {
	if h := n.fsm.held.Load(); h != nil {
		return h.err
	}
	if room, err := n.store.Room(); room >= logfile.RoomControl {
		return err
	}
	return nil
}

// noRoom says why this node takes no entries at all for want of room; nil when it does.
func (n *Node) noRoom() error {
	if h := n.fsm.held.Load(); h != nil {
		return h.err
	}
	return n.store.CheckRoom()
}

// fullVoters is how many other voters said lately that their disks are full, and of how many.
type fullVoters struct{ full, voters int }

// roomForData says why the cluster takes no data, of which this node is the leader; nil when it does. Data that a
// majority cannot store would stand in the way of all that comes after it.
func (n *Node) roomForData() error {
	if err := n.fullDisk(); err != nil {
		return err
	}
	if v := n.fullVoters.Load(); v != nil && v.voters-v.full <= v.voters/2 {
		return fmt.Errorf("%d of %d nodes have full disks: %w", v.full, v.voters, logfile.ErrFull)
	}
	return nil
}

// refuseFull is the answer to what is refused for want of room: whoever sends is to wait while room is being made.
func (n *Node) refuseFull(why error) error {
	if n.cfg.MakesRoom != nil && n.cfg.MakesRoom() {
		return fmt.Errorf("%w: %w", ErrMakingRoom, why)
	}
	return fmt.Errorf("%w: %w", ErrDiskFull, why)
}

// keepRoom makes the log as short as it may be while the disk is nearly full.
func (n *Node) keepRoom() {
	ticker := time.NewTicker(roomInterval)
	defer ticker.Stop()
	var marked time.Time
	for {
		select {
		case <-n.closing:
			return
		case <-ticker.C:
		}
		n.noteMembers() // soon after they change: a node that is damaged a moment later has to know whom to ask
		room, _ := n.store.Room()
		if room == logfile.RoomAmple {
			continue
		}
		n.retain()
		if r := n.raft.Load(); r != nil && room != logfile.RoomNone && time.Since(marked) >= roomMarks && r.AppliedIndex() > n.mark.Load().Index+minTrailing {
			if err := r.Snapshot().Error(); err != nil {
				n.log.Warn("mark on a full disk", "err", err)
			}
			marked = time.Now()
		}
		if err := n.shorten(); err != nil {
			n.log.Warn("shorten the log on a full disk", "err", err)
		}
	}
}

// shorten removes what lies behind the mark, except for what is always kept. Raft does so too, but only with a mark.
func (n *Node) shorten() error {
	first, err := n.store.FirstIndex()
	if err != nil {
		return err
	}
	mark := n.mark.Load().Index
	if first == 0 || mark < first+minTrailing {
		return nil
	}
	return n.store.DeleteRange(first, mark-minTrailing)
}

// yield hands leadership to a voter whose disk has room.
func (n *Node) yield(r *raft.Raft) {
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
	defer cancel()
	for _, s := range n.servers() {
		if string(s.ID) == n.cfg.NodeID || s.Suffrage != raft.Voter {
			continue
		}
		if st, err := n.PeerStatus(ctx, string(s.ID)); err != nil || st.DiskFull != "" || st.Installing {
			continue
		}
		if err := n.handOver(r, &s); err != nil {
			n.log.Warn("disk is full, leadership was not handed over", "to", s.ID, "err", err)
			continue
		}
		n.log.Warn("disk is full, leadership was handed over", "to", s.ID)
		return
	}
}
