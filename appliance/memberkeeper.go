package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	node keptNode
	rec  func(id string) membership // as this node has applied it
	fit  map[string]time.Time       // since when a member without a vote has been fit for one
	said map[string]string          // what was logged last about a member
}

// keptNode is what the keeper needs of the node.
type keptNode interface {
	Status() raftstate.Status
	Replaying() bool
	Barrier(ctx context.Context) error
	MayVote(ctx context.Context, id string) error
	AddVoter(ctx context.Context, id, addr string) error
	Demote(ctx context.Context, id string) error
	RemoveServer(ctx context.Context, id string) error
}

func (a *App) newMemberKeeper() *memberKeeper {
	return &memberKeeper{
		app: a, node: a.node, fit: make(map[string]time.Time), said: make(map[string]string),
		rec: func(id string) membership { rec, _ := a.membershipOf(id); return rec },
	}
}

// keepMembers runs until ctx ends.
func (a *App) keepMembers(ctx context.Context) {
	k := a.newMemberKeeper()
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
		k.endLeaving(turn)
		cancel()
	}
}

// turn acts on what the log's configuration says beside what was decided. The configuration is raft's newest, the decisions
// are those that this node has applied: of a member that was removed and has joined since it may know only the first. So
// before it takes anything away it waits for all that was committed, and looks again.
func (k *memberKeeper) turn(ctx context.Context) {
	if k.node.Replaying() { // what it has applied is of long ago
		return
	}
	for _, m := range k.node.Status().Members {
		rec := k.rec(m.ID)
		if rec.Leaving != nil || rec.Removed != nil || m.Voter && rec.ReadOnly {
			if err := k.node.Barrier(ctx); err != nil {
				k.say(m.ID, err)
				continue
			}
			rec = k.rec(m.ID)
		}
		if m.Voter || rec.ReadOnly || rec.Leaving != nil {
			delete(k.fit, m.ID)
		}
		switch {
		case rec.Leaving != nil, rec.Removed != nil:
			k.say(m.ID, k.node.RemoveServer(ctx, m.ID))
		case m.Voter && rec.ReadOnly:
			k.say(m.ID, k.node.Demote(ctx, m.ID))
		case !m.Voter && !rec.ReadOnly:
			k.say(m.ID, k.consider(ctx, &m))
		default:
			k.say(m.ID, nil)
		}
	}
}

// endLeaving ends the memberships of those that are to leave and are members no more.
func (k *memberKeeper) endLeaving(ctx context.Context) {
	members := make(map[string]bool)
	for _, m := range k.node.Status().Members {
		members[m.ID] = true
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
	if err := k.node.MayVote(ctx, m.ID); err != nil {
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
	if err := k.node.AddVoter(ctx, m.ID, m.Addr); err != nil {
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

// watchMembership asks other members whether this node still is one: all of them while it hears of no leader or does not
// find itself among the members, and as a leader those that it does not reach. Nobody else tells it: whoever is no member is
// sent nothing, and a majority that was given up in a recovery hears of a leader among itself.
func (a *App) watchMembership(ctx context.Context) {
	// A node that goes on as another incarnation must be heard, so only who it is and that the CA is the same counts.
	who := staticIdentity(a.identity)
	who.Verify = nil
	client := forward.NewClient(who, func(id string) (string, error) {
		m, ok := a.memberOf(id)
		if !ok {
			return "", fmt.Errorf("%w: %s", raftstate.ErrNoMember, id)
		}
		return m.Addr, nil
	})
	defer client.Close()
	tick := time.NewTicker(askEndedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		st := a.node.Status()
		_, member := a.memberOf(a.cfg.NodeID)
		all := len(st.Members) > 0 && (!member || st.Leader == "")
		var wg sync.WaitGroup
		for _, m := range st.Members {
			if m.ID == a.cfg.NodeID || !all && !m.Lost { // only a leader knows who is lost
				continue
			}
			wg.Go(func() {
				ask, cancel := context.WithTimeout(ctx, peerPatience)
				defer cancel()
				if e, ok := errors.AsType[*endedError](askEnded(ask, client, m.ID)); ok {
					a.ended(e.by, e.why)
				}
			})
		}
		wg.Wait()
	}
}

// askEnded returns an endedError when the node id says that this one is no member any more.
func askEnded(ctx context.Context, client *forward.Client, id string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+id+peerNodePath, nil)
	if err != nil {
		return err
	}
	resp, err := client.Transport().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return peerRefusal(id, resp)
	}
	return nil
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
	if err := unclaim(c); err != nil {
		return fmt.Errorf("delete the data of the removed node: %w", err)
	}
	if err := c.discardRest(); err != nil {
		return fmt.Errorf("delete the data of the removed node: %w", err)
	}
	return removeFile(filepath.Join(c.DataDir, removedMark))
}

// discardRest deletes what else the node kept in its data directory: what was set aside as damaged, records of damage, orders,
// queues. Folders that an operator made places to mount disks on stay, and so do the TLS directory, without what was the
// node's, and folders of backups.
func (c *Config) discardRest() error {
	entries, err := os.ReadDir(c.DataDir)
	if err != nil {
		return err
	}
	keep := []string{c.TLS.Dir, c.Backup.Dir}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(c.DataDir, e.Name())
		held := slices.ContainsFunc(keep, func(dir string) bool { return dir == path || strings.HasPrefix(dir, path+string(filepath.Separator)) })
		switch {
		case held, e.Name() == "LOCK", e.Name() == "lost+found", e.Name() == removedMark, e.IsDir() && slices.Contains(storeDirs, e.Name()):
		default:
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}
