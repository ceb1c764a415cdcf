package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
)

// A rolling upgrade replaces the program of one node after the other. Meanwhile the cluster keeps the format that all of its
// programs know, and each of them can go back. Only when an operator finalizes it is the format raised, by an entry of the
// log: from then on entries of new kinds are taken (raftstate refuses them before), and older programs stop.

// UpgradeStatus implements api.Upgrades.
func (a *App) UpgradeStatus(ctx context.Context) (api.UpgradeStatus, error) {
	st := a.node.Status()
	out := api.UpgradeStatus{Format: a.state.format(), Nodes: make([]api.UpgradeNode, len(st.Members))}
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	var wg sync.WaitGroup
	for i, m := range st.Members {
		n := &out.Nodes[i]
		n.ID = m.ID
		if m.ID == a.cfg.NodeID {
			n.Version, n.Format = a.version, st.Format
			continue
		}
		wg.Go(func() {
			peer, err := a.node.PeerStatus(ctx, m.ID)
			if err != nil {
				return
			}
			n.Format = max(1, peer.Format)
			if about, err := a.cluster.ask(ctx, m.ID); err == nil {
				n.Version = about.Version
			}
		})
	}
	wg.Wait()
	judge(&out)
	return out, nil
}

// judge says what can be done about the format.
func judge(u *api.UpgradeStatus) {
	slices.SortFunc(u.Nodes, func(x, y api.UpgradeNode) int {
		if x.ID < y.ID {
			return -1
		}
		return 1
	})
	least, most := ^uint32(0), uint32(0)
	for _, n := range u.Nodes {
		least, most = min(least, n.Format), max(most, n.Format)
	}
	u.Target = u.Format
	switch {
	case len(u.Nodes) == 0 || most <= u.Format: // nobody knows more
	case least > u.Format:
		u.Target = least
	default:
		for _, n := range u.Nodes {
			switch {
			case n.Format == 0:
				u.Blocked = fmt.Sprintf("node %s does not answer: which formats it knows is not known", n.ID)
			case n.Format <= u.Format && u.Blocked == "":
				u.Blocked = fmt.Sprintf("node %s (version %s) knows formats up to %d: upgrade it first", n.ID, n.Version, n.Format)
			}
		}
	}
}

// FinalizeUpgrade implements api.Upgrades.
func (a *App) FinalizeUpgrade(ctx context.Context, by api.Operator) (api.UpgradeStatus, error) {
	st, err := a.UpgradeStatus(ctx)
	if err != nil {
		return st, err
	}
	if st.Blocked != "" {
		return st, fmt.Errorf("%w: %s", raftstate.ErrUnsupported, st.Blocked)
	}
	if st.Target == st.Format {
		return st, nil
	}
	detail, err := json.Marshal(map[string]any{"from": st.Format, "to": st.Target, "nodes": st.Nodes})
	if err != nil {
		return st, fmt.Errorf("encode audit record: %w", err)
	}
	// One entry: the format is raised and recorded, or neither. The leader asks the members again.
	index, results, err := a.node.Propose(ctx, command.NewSetFormat(st.Target), command.NewMetaTxn(command.Txn{Audit: []command.AuditRecord{
		{Actor: by.Name, Address: by.Address, Action: "upgrade.finalize", Target: fmt.Sprint(st.Target), Detail: detail},
	}}))
	if err != nil {
		return st, err
	}
	for _, r := range results {
		if r.Status != command.StatusOK {
			return st, fmt.Errorf("raise the format to %d: %s %s", st.Target, r.Status, r.Detail)
		}
	}
	a.log.Info("the cluster's format was raised", "format", st.Target, "by", by.Name)
	st.Format = st.Target
	return st, a.node.WaitApplied(ctx, index)
}
