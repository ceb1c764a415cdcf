package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/meta"
)

const (
	keepMembersEvery = time.Second
	// stableFor is how long a new node must have been fit to vote, without a break, before it gets its vote. One that
	// comes and goes as a voter makes a majority harder to reach.
	stableFor = 5 * time.Second
	// askEndedEvery is how often a node that nobody leads asks the others whether it still is a member.
	askEndedEvery = 2 * time.Second
)

// memberKeeper makes the log's configuration what bucketMembership says, while this node leads. So what was begun goes on
// whoever asked for it and whoever leads. The rules for a vote are those of hashicorp's autopilot: there, healthy, close
// behind, and all that for a while. Its library was no fit: it also takes out servers that are down, by its own decision.
type memberKeeper struct {
	app  *App
	fit  map[string]time.Time // since when a member without a vote has been fit for one
	said map[string]string    // what was logged last about a member
}

// keepMembers runs until ctx ends.
func (a *App) keepMembers(ctx context.Context) {
	k := &memberKeeper{app: a, fit: make(map[string]time.Time), said: make(map[string]string)}
	tick := time.NewTicker(keepMembersEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, self := a.node.Leader(); !self {
			clear(k.fit)
			clear(k.said)
			continue
		}
		turn, cancel := context.WithTimeout(ctx, 30*time.Second)
		k.turn(turn)
		cancel()
	}
}

func (k *memberKeeper) turn(ctx context.Context) {
	members := make(map[string]bool)
	for _, m := range k.app.node.Status().Members {
		members[m.ID] = true
		rec, _ := k.app.membershipOf(m.ID)
		if m.Voter || rec.ReadOnly || rec.Leaving != nil {
			delete(k.fit, m.ID)
		}
		switch {
		case rec.Leaving != nil, rec.Removed != nil:
			k.say(m.ID, k.app.node.RemoveServer(ctx, m.ID))
		case m.Voter && rec.ReadOnly:
			k.say(m.ID, k.app.node.Demote(ctx, m.ID))
		case !m.Voter && !rec.ReadOnly:
			k.say(m.ID, k.consider(ctx, &m))
		default:
			k.say(m.ID, nil)
		}
	}
	k.app.state.Scan(bucketMembership, "", func(id string, v meta.Value) bool {
		var rec membership
		if json.Unmarshal(v.Data, &rec) == nil && rec.Leaving != nil && !members[id] {
			k.say(id, k.app.sayFarewell(ctx, id))
		}
		return ctx.Err() == nil
	})
}

// consider gives a member its vote once it has been fit for one for long enough.
func (k *memberKeeper) consider(ctx context.Context, m *raftstate.Member) error {
	if err := k.app.node.MayVote(ctx, m.ID); err != nil {
		delete(k.fit, m.ID)
		return err
	}
	since, ok := k.fit[m.ID]
	if !ok {
		k.fit[m.ID] = time.Now()
		return nil
	}
	if time.Since(since) < stableFor {
		return nil
	}
	if err := k.app.node.AddVoter(ctx, m.ID, m.Addr); err != nil {
		delete(k.fit, m.ID)
		return err
	}
	k.app.log.Info("a node has caught up and has a vote from now on", "peer", m.ID)
	_, err := k.app.commit(ctx, command.Txn{Audit: []command.AuditRecord{
		{Actor: "node " + k.app.cfg.NodeID, Action: "node.vote", Target: m.ID},
	}})
	return err
}

// say logs what keeps a member from being what it ought to be, when that is another reason than before.
func (k *memberKeeper) say(id string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if err == nil || errors.Is(err, context.Canceled) {
		delete(k.said, id)
		return
	}
	if k.said[id] != text {
		k.said[id] = text
		k.app.log.Info("a member is not yet what it ought to be", "peer", id, "err", err)
	}
}

// ErrRemoved says that the cluster removed the node whose data this is.
var ErrRemoved = errors.New("this node was removed from its cluster")

// removedMark lies in the data directory of a node that was told that it is no member any more.
const removedMark = "REMOVED"

// removal is the content of removedMark.
type removal struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	Said    string `json:"said"` // by a member
	By      string `json:"told_by"`
}

// Removed returns ErrRemoved with what members said, when they told this node that it is none any more. The configuration
// must be resolved.
func (c *Config) Removed() error {
	body, err := os.ReadFile(filepath.Join(c.DataDir, removedMark))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var r removal
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	if err != nil { // it is there, and that is what counts
		return fmt.Errorf("%w (what it was told cannot be read: %w)", ErrRemoved, err)
	}
	return fmt.Errorf("%w %s: %s, says node %s", ErrRemoved, r.Cluster, r.Said, r.By)
}

// ended notes for good that a member said that this node is none any more, and ends the node: what it has is no longer kept
// up, so nobody must take it for an answer. Agents and browsers go to the others.
func (a *App) ended(by, why string) {
	r := removal{Cluster: a.identity.ClusterID(), Node: a.cfg.NodeID, Said: why, By: by}
	body, err := json.Marshal(r)
	if err == nil {
		err = pki.WriteSecret(filepath.Join(a.cfg.DataDir, removedMark), body)
	}
	if err != nil { // the next start is told again
		a.log.Error("that this node was removed is not written down", "err", err)
	}
	a.fail(fmt.Errorf("%w %s: %s, says node %s", ErrRemoved, r.Cluster, why, by))
}

// watchMembership asks the other members, while this node hears of no leader or does not find itself among the members,
// whether it is one. Nobody else tells it: whoever is no member is sent nothing.
func (a *App) watchMembership(ctx context.Context) {
	tick := time.NewTicker(askEndedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		st := a.node.Status()
		if _, member := a.memberOf(a.cfg.NodeID); len(st.Members) == 0 || member && st.Leader != "" {
			continue
		}
		var wg sync.WaitGroup
		for _, m := range st.Members {
			if m.ID == a.cfg.NodeID {
				continue
			}
			wg.Go(func() {
				ask, cancel := context.WithTimeout(ctx, peerPatience)
				defer cancel()
				if err := a.askPeer(ask, m.ID, peerNodePath, new(nodeStatus)); err != nil {
					if e, ok := errors.AsType[*endedError](err); ok {
						a.ended(e.by, e.why)
					}
				}
			})
		}
		wg.Wait()
	}
}

// endedError is the answer of a member that this node is none any more.
type endedError struct{ by, why string }

// Error implements error.
func (e *endedError) Error() string { return fmt.Sprintf("node %s: %s", e.by, e.why) }

// peerRefusal is the error of an answer of a peer that is no success.
func peerRefusal(id string, resp *http.Response) error {
	if why, ended := forward.Ended(resp); ended {
		return &endedError{by: id, why: why}
	}
	return &refusedError{by: id, status: resp.StatusCode, text: resp.Status}
}

// refusedError is an answer of a peer that is no success.
type refusedError struct {
	by, text string
	status   int
}

// Error implements error.
func (e *refusedError) Error() string { return fmt.Sprintf("node %s: %s", e.by, e.text) }

// refusedWith reports whether a peer answered with the status.
func refusedWith(err error, status int) bool {
	var r *refusedError
	return errors.As(err, &r) && r.status == status
}

// DiscardRemoved deletes what a node that was removed from its cluster has of it: data, certificate and keys, so that its
// machine can join again. It refuses any other node, and one that runs. The configuration must be resolved.
func (c *Config) DiscardRemoved() (err error) {
	release, err := lockDir(c.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if !errors.Is(c.Removed(), ErrRemoved) {
		return fmt.Errorf("%s is not of a node that was removed from its cluster: nothing was deleted", c.DataDir)
	}
	for _, name := range []string{recoveryFile, fileToken} {
		if err := removeFile(filepath.Join(c.TLS.Dir, name)); err != nil {
			return err
		}
	}
	if err := removeFile(filepath.Join(c.DataDir, raftstate.RosterFile)); err != nil {
		return err
	}
	if err := unclaim(c); err != nil {
		return fmt.Errorf("delete the data of the removed node: %w", err)
	}
	return removeFile(filepath.Join(c.DataDir, removedMark))
}
