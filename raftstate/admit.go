package raftstate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/triward/triward/raftstate/command"
)

// formatTimeout bounds asking the members which format they know.
const formatTimeout = 2 * time.Second

// admit says why this node, as the leader, does not put the commands into the log; nil when it does.
func (n *Node) admit(ctx context.Context, cmds []command.Command) error {
	for _, c := range cmds {
		if err := n.supported(ctx, c); err != nil {
			return err
		}
	}
	if why := n.cutsHeld(); why != "" && slices.ContainsFunc(cmds, overdue) {
		return fmt.Errorf("%w: %s", ErrClocks, why)
	}
	if slices.ContainsFunc(cmds, func(c command.Command) bool { return bringsData(c.Type) }) {
		if why := n.clock.disagreement(); why != "" { // what comes from right clocks would be refused as of the future
			return fmt.Errorf("%w: %s", ErrClocks, why)
		}
		if err := n.roomForData(); err != nil {
			return n.refuseFull(err)
		}
	}
	return nil
}

// overdue reports whether the command removes what time has made due.
func overdue(c command.Command) bool {
	switch c.Type &^ command.Ignorable {
	case command.TypeCollectSeries:
		return true
	case command.TypeRetentionCut:
		cut, err := command.DecodeRetentionCut(c)
		return err == nil && cut.Reason == command.CutAge
	}
	return false
}

// supported refuses what would stop nodes that have to apply it. A newer follower may hand on what this node does not
// know, and what the log holds cannot be taken back.
func (n *Node) supported(ctx context.Context, c command.Command) error {
	switch {
	case command.Known(c.Type, c.Version):
	case c.Type.MayIgnore():
		return nil
	default:
		return fmt.Errorf("%w: leader %s does not know %s version %d", ErrUnsupported, n.cfg.NodeID, c.Type, c.Version)
	}
	if since, now := command.Since(c.Type, c.Version), max(1, n.state.Format()); since > now {
		return fmt.Errorf("%w: %s version %d is of format %d, the cluster's is %d until `triward upgrade finalize`", ErrUnsupported, c.Type, c.Version, since, now)
	}
	if c.Type&^command.Ignorable != command.TypeSetFormat {
		return nil
	}
	format, err := command.DecodeSetFormat(c)
	if err != nil {
		return nil //nolint:nilerror // the state machine refuses it by a result
	}
	return n.allKnow(ctx, format)
}

// allKnow refuses a format that a member does not know, or may not know as it does not answer.
func (n *Node) allKnow(ctx context.Context, format uint32) error {
	if format > n.cfg.format {
		return fmt.Errorf("%w: leader %s knows formats up to %d, not %d", ErrUnsupported, n.cfg.NodeID, n.cfg.format, format)
	}
	if format <= 1 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, formatTimeout)
	defer cancel()
	for _, s := range n.servers() {
		if string(s.ID) == n.cfg.NodeID {
			continue
		}
		st, err := n.PeerStatus(ctx, string(s.ID))
		if err != nil {
			return fmt.Errorf("%w: whether node %s knows format %d is not known: %w", ErrUnsupported, s.ID, format, err)
		}
		if known := max(1, st.Format); known < format {
			return fmt.Errorf("%w: node %s knows formats up to %d, not %d: upgrade it first", ErrUnsupported, s.ID, known, format)
		}
	}
	return nil
}
