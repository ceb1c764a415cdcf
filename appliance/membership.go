package appliance

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/meta"
)

// bucketMembership has, by the name of a node, what the cluster decided about it. The log's own configuration says who is
// a member and who votes; this says what ought to be, and the leader brings it about (memberKeeper).
const bucketMembership = "membership"

// maxFarewells bounds how many nodes that were removed are remembered; the oldest is forgotten first.
const maxFarewells = 200

// membership is a record of bucketMembership. A node without one was there from the beginning, or joined under a version
// that made none.
type membership struct {
	// Number is that of the certificate with which the node joined last (pki.CA.ForMember): one with a smaller number is of
	// a machine that had the name before.
	Number   uint64    `json:"number,omitempty"`
	ReadOnly bool      `json:"read_only,omitempty"` // it never gets a vote
	Leaving  *farewell `json:"leaving,omitempty"`   // it is being removed
	Removed  *farewell `json:"removed,omitempty"`   // it was; certificates of before this record no longer count
}

// farewell says when and by whom a node was removed.
type farewell struct {
	At int64  `json:"at"` // log time, milliseconds
	By string `json:"by"`
}

// membershipOf returns the record of a node and the entry that changed it last; zero when there is none.
func (a *App) membershipOf(id string) (rec membership, mod uint64) {
	v, ok := a.state.Get(bucketMembership, id)
	if !ok || json.Unmarshal(v.Data, &rec) != nil {
		return membership{}, v.ModIndex
	}
	return rec, v.ModIndex
}

// admit refuses a node whose certificate is of another incarnation of the cluster or of a membership that has ended. What
// it goes by is this node's state, which may be behind: then it knows less, and the log itself keeps out whoever is no
// member. A certificate that is newer than what is known is good.
func (a *App) admit(id string, cert *x509.Certificate) error {
	if err := a.identity.CheckPeer(cert); err != nil {
		return a.formerly(cert, err)
	}
	if !a.state.isOpen() {
		select {
		case <-a.repairs.Waiting(): // its state is to come from the others: the log keeps out whoever is no member
			if !raftstate.WasMember(a.cfg.DataDir, id) {
				return fmt.Errorf("node %s is no member that this node, which is being repaired, knows", id)
			}
			return nil
		default:
			return forward.ErrUnready
		}
	}
	rec, mod := a.membershipOf(id)
	switch n := pki.MemberNumber(cert); {
	case rec.Removed != nil && n < mod:
		return fmt.Errorf("%w: node %s was removed at %s by %s", forward.ErrEnded, id, time.UnixMilli(rec.Removed.At).UTC().Format(time.RFC3339), rec.Removed.By)
	case n < rec.Number:
		return fmt.Errorf("%w: another machine has joined as node %s since", forward.ErrEnded, id)
	}
	return nil
}

// memberTxn is a change of a node's record with the audit record of who wanted it.
func (a *App) memberTxn(id string, mod uint64, rec membership, audit command.AuditRecord) (command.Txn, error) {
	body, err := json.Marshal(rec)
	if err != nil {
		return command.Txn{}, fmt.Errorf("encode membership of %s: %w", id, err)
	}
	return command.Txn{
		Compares: []command.Compare{{Bucket: bucketMembership, Key: id, ModIndex: mod}},
		Ops:      []command.Op{{Bucket: bucketMembership, Key: id, Value: body}},
		Audit:    []command.AuditRecord{audit},
	}, nil
}

func (a *App) setMembership(ctx context.Context, id string, mod uint64, rec membership, audit command.AuditRecord) error {
	t, err := a.memberTxn(id, mod, rec, audit)
	if err != nil {
		return err
	}
	_, err = a.commit(ctx, t)
	if errors.Is(err, auth.ErrConflict) {
		return fmt.Errorf("%w: somebody else has just changed what is decided about node %s", raftstate.ErrChanging, id)
	}
	return err
}

// member returns a member as the log's configuration has it.
func (a *App) memberOf(id string) (raftstate.Member, bool) {
	all := a.node.Status().Members
	i := slices.IndexFunc(all, func(m raftstate.Member) bool { return m.ID == id })
	if i < 0 {
		return raftstate.Member{}, false
	}
	return all[i], true
}

// outcome is how the voters are after a change.
func (a *App) outcome(id string) api.MemberChange {
	st := a.node.Status()
	out := api.MemberChange{Node: id, Leader: st.Leader}
	for _, m := range st.Members {
		if m.Voter {
			out.Voters++
		}
	}
	return out.Counted()
}

// TransferLeader implements api.Membership.
func (a *App) TransferLeader(ctx context.Context, to string, by api.Operator) (api.MemberChange, error) {
	st := a.node.Status()
	if to != "" {
		if _, ok := a.memberOf(to); !ok {
			return api.MemberChange{}, fmt.Errorf("%w: %s", raftstate.ErrNoMember, to)
		}
	}
	// It changes nothing that is stored; the record of who wanted it is written first, with what came of it unknown.
	detail, err := json.Marshal(map[string]string{"from": st.Leader, "to": to})
	if err != nil {
		return api.MemberChange{}, fmt.Errorf("encode audit record: %w", err)
	}
	if _, err := a.commit(ctx, command.Txn{Audit: []command.AuditRecord{
		{Actor: by.Name, Address: by.Address, Action: "cluster.transfer", Target: cmp.Or(to, "any"), Detail: detail},
	}}); err != nil {
		return api.MemberChange{}, err
	}
	if err := a.node.TransferLeadership(ctx, to); err != nil {
		return api.MemberChange{}, err
	}
	out := a.outcome(to)
	if to != "" { // this node may not have heard yet
		out.Leader = to
	}
	return out, nil
}

// RemoveMember implements api.Membership. What is decided is written down before the log's configuration changes, so that
// the next leader goes on with it, and again when it is done: from then on the node's certificate lets it in no more.
func (a *App) RemoveMember(ctx context.Context, id string, by api.Operator) (api.MemberChange, error) {
	m, member := a.memberOf(id)
	if _, known := a.state.Get(bucketNodes, id); !member && !known {
		return api.MemberChange{}, fmt.Errorf("%w: %s", raftstate.ErrNoMember, id)
	}
	if err := a.node.MayRemove(ctx, id); err != nil {
		return api.MemberChange{}, err
	}
	rec, mod := a.membershipOf(id)
	was := rec
	rec.Leaving, rec.Removed = &farewell{At: a.state.LogTime(), By: by.Name}, nil
	detail, err := json.Marshal(map[string]any{"voter": m.Voter, "addr": m.Addr})
	if err != nil {
		return api.MemberChange{}, fmt.Errorf("encode audit record: %w", err)
	}
	audit := command.AuditRecord{Actor: by.Name, Address: by.Address, Action: "node.remove", Target: id, Detail: detail}
	if err := a.setMembership(ctx, id, mod, rec, audit); err != nil {
		return api.MemberChange{}, err
	}
	err = a.node.RemoveServer(ctx, id)
	switch {
	case errors.Is(err, raftstate.ErrQuorum): // since we asked
		_, mod := a.membershipOf(id)
		audit.Action, audit.Detail = "node.remove_refused", nil
		return api.MemberChange{}, errors.Join(err, a.setMembership(ctx, id, mod, was, audit))
	case err != nil:
		return api.MemberChange{}, fmt.Errorf("the removal of node %s goes on when there is a leader: %w", id, err)
	}
	out := a.outcome(id)
	if id == a.cfg.NodeID { // what comes now it does not learn: the leader goes on
		return out, nil
	}
	return out, a.sayFarewell(ctx, id)
}

// sayFarewell ends the removal of a node that is no member any more: its record, its tokens and its right to connect go.
func (a *App) sayFarewell(ctx context.Context, id string) error {
	rec, mod := a.membershipOf(id)
	if rec.Leaving == nil {
		return nil
	}
	rec.Removed, rec.Leaving, rec.ReadOnly = rec.Leaving, nil, false
	t, err := a.memberTxn(id, mod, rec, command.AuditRecord{Actor: "node " + a.cfg.NodeID, Action: "node.removed", Target: id})
	if err != nil {
		return err
	}
	t.Ops = append(t.Ops, command.Op{Bucket: bucketNodes, Key: id, Delete: true})
	a.state.Scan(auth.BucketAPITokens, "", func(key string, v meta.Value) bool {
		var token auth.APIToken
		if json.Unmarshal(v.Data, &token) == nil && token.Node == id {
			t.Ops = append(t.Ops, command.Op{Bucket: auth.BucketAPITokens, Key: key, Delete: true})
		}
		return true
	})
	if old := a.oldestFarewell(); old != "" && old != id {
		t.Ops = append(t.Ops, command.Op{Bucket: bucketMembership, Key: old, Delete: true})
	}
	if _, err := a.commit(ctx, t); err != nil && !errors.Is(err, auth.ErrConflict) { // another leader did it
		return fmt.Errorf("end the membership of node %s: %w", id, err)
	}
	return nil
}

// oldestFarewell names the node that was removed first, when too many are remembered.
func (a *App) oldestFarewell() string {
	gone := a.farewells()
	if len(gone) < maxFarewells {
		return ""
	}
	return gone[0].ID
}

// goneNode is a node that was removed.
type goneNode struct {
	ID string `json:"id"`
	farewell
}

// farewells lists the nodes that were removed, in the order in which they were.
func (a *App) farewells() []goneNode {
	var out []goneNode
	a.state.Scan(bucketMembership, "", func(id string, v meta.Value) bool {
		var rec membership
		if json.Unmarshal(v.Data, &rec) == nil && rec.Removed != nil {
			out = append(out, goneNode{id, *rec.Removed})
		}
		return true
	})
	slices.SortFunc(out, func(x, y goneNode) int { return cmp.Or(cmp.Compare(x.At, y.At), cmp.Compare(x.ID, y.ID)) })
	return out
}

// SetReadOnly implements api.Membership.
func (a *App) SetReadOnly(ctx context.Context, id string, readOnly bool, by api.Operator) (api.MemberChange, error) {
	m, ok := a.memberOf(id)
	if !ok {
		return api.MemberChange{}, fmt.Errorf("%w: %s", raftstate.ErrNoMember, id)
	}
	if readOnly {
		if err := a.node.MayDemote(ctx, id); err != nil {
			return api.MemberChange{}, err
		}
	}
	rec, mod := a.membershipOf(id)
	if rec.Leaving != nil {
		return api.MemberChange{}, fmt.Errorf("%w: node %s is being removed", raftstate.ErrChanging, id)
	}
	was := rec
	rec.ReadOnly = readOnly
	audit := command.AuditRecord{Actor: by.Name, Address: by.Address, Action: "node.promote", Target: id}
	if readOnly {
		audit.Action = "node.demote"
	}
	if err := a.setMembership(ctx, id, mod, rec, audit); err != nil {
		return api.MemberChange{}, err
	}
	if readOnly {
		err := a.node.Demote(ctx, id)
		if errors.Is(err, raftstate.ErrQuorum) { // since we asked
			_, mod := a.membershipOf(id)
			audit.Action = "node.demote_refused"
			return api.MemberChange{}, errors.Join(err, a.setMembership(ctx, id, mod, was, audit))
		}
		if err != nil {
			return api.MemberChange{}, fmt.Errorf("node %s loses its vote when there is a leader: %w", id, err)
		}
		return a.outcome(id), nil
	}
	pending := ""
	if err := a.node.AddVoter(ctx, id, m.Addr); err != nil {
		pending = "it gets its vote by itself as soon as it can: " + err.Error()
	}
	out := a.outcome(id)
	out.Pending = pending
	return out, nil
}
