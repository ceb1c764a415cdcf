package appliance

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/triward/triward/raftstate"
)

// behindNode is a leader that has applied less than what was committed, until it is asked to wait for that.
type behindNode struct {
	members   []raftstate.Member
	replaying bool
	unsettled bool
	caughtUp  bool
	did       []string
}

func (n *behindNode) Status() raftstate.Status { return raftstate.Status{Members: n.members} }
func (n *behindNode) Replaying() bool          { return n.replaying }

func (n *behindNode) Barrier(context.Context) error {
	if n.unsettled {
		return raftstate.ErrNoLeader
	}
	n.caughtUp = true
	return nil
}

func (n *behindNode) MayVote(context.Context, string) error { return errors.New("not yet") }

func (n *behindNode) AddVoter(_ context.Context, id, _ string) error {
	n.did = append(n.did, "vote "+id)
	return nil
}

func (n *behindNode) Demote(_ context.Context, id string) error {
	n.did = append(n.did, "demote "+id)
	return nil
}

func (n *behindNode) RemoveServer(_ context.Context, id string) error {
	n.did = append(n.did, "remove "+id)
	return nil
}

// A leader takes nothing away by a decision that another one has followed.
func TestMembersAreKeptByAllThatWasDecided(t *testing.T) {
	gone := &farewell{At: 1, By: "somebody"}
	cases := []struct {
		name      string
		old, now  membership
		voter     bool
		replaying bool
		unsettled bool
		want      []string
	}{
		{"joined again since it was removed", membership{Removed: gone}, membership{Number: 9}, false, false, false, nil},
		{"removed", membership{Removed: gone}, membership{Removed: gone}, false, false, false, []string{"remove c"}},
		{"leaving", membership{Leaving: gone}, membership{Leaving: gone}, true, false, false, []string{"remove c"}},
		{"has a vote again", membership{ReadOnly: true}, membership{}, true, false, false, nil},
		{"to lose its vote", membership{ReadOnly: true}, membership{ReadOnly: true}, true, false, false, []string{"demote c"}},
		{"not known what was decided", membership{Removed: gone}, membership{Removed: gone}, false, false, true, nil},
		{"applying its log again", membership{Removed: gone}, membership{Removed: gone}, false, true, false, nil},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			n := &behindNode{members: []raftstate.Member{{ID: "c", Voter: k.voter}}, replaying: k.replaying, unsettled: k.unsettled}
			keeper := (&App{log: slog.New(slog.DiscardHandler)}).newMemberKeeper()
			keeper.node = n
			keeper.rec = func(string) membership {
				if n.caughtUp {
					return k.now
				}
				return k.old
			}
			keeper.turn(t.Context())
			if !slices.Equal(n.did, k.want) {
				t.Errorf("it did %v, want %v", n.did, k.want)
			}
		})
	}
}
