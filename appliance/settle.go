package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/machine"
)

// Buckets of the metadata that this package owns.
const (
	bucketNodes    = "nodes"
	bucketSettings = "settings"
)

var accessBuckets = []string{auth.BucketUsers, auth.BucketSessions, auth.BucketAPITokens, auth.BucketAgents, auth.BucketTokens, auth.BucketInvites}

// nodeRecord says how a node is reached; each node keeps its own.
type nodeRecord struct {
	ID       string `json:"id"`
	PeerAddr string `json:"peer_addr"`
	URL      string `json:"url"`
	AgentURL string `json:"agent_url"`
	Version  string `json:"version"`
	JoinedAt int64  `json:"joined_at"` // log time, milliseconds
}

// settleRetry is how long after a failure the next attempt is made; what fails again and again is tried less often,
// at last every settlePause.
const (
	settleRetry = 300 * time.Millisecond
	settlePause = 2 * time.Second
)

// step is one thing that a start has to bring about.
type step struct {
	name string
	fn   func(context.Context) error
}

// settleIn makes the node what its setup says and its record true, however often that takes. The token of the command
// line is no condition of being a member, but where it can be made it is there before the node says that it is ready.
func (a *App) settleIn(ctx context.Context) {
	for _, s := range []step{
		{"join the cluster", a.joinPeers},
		{"found the cluster", a.found},
		{"note the restore", a.noteRestore},
		{"note the recovery", a.noteRecovery},
		{"write the record of the node", a.writeRecord},
		{"finish setup", a.finishSetup},
	} {
		if !a.persist(ctx, s) {
			return
		}
	}
	token := &localToken{app: a}
	first := a.tryOnce(ctx, token.ensure)
	if err := a.tryOnce(ctx, a.fetchRing); err != nil {
		a.log.Error("this node cannot open secrets", "err", err)
		a.work.Go(func() { a.persist(ctx, step{"take the key ring from a member", a.fetchRing}) })
	}
	if err := a.cfg.SaveRecovery(); err != nil {
		a.log.Error("the recovery file of this node is not written: `triward tls issue` may not help it", "err", err)
	}
	if err := a.tryOnce(ctx, a.ensureAgentCA); err != nil {
		a.work.Go(func() { a.persist(ctx, step{"make the agents' CA", a.ensureAgentCA}) })
	}
	a.settled.Store(true)
	close(a.member)
	a.log.Info("this node is a member", "cluster", a.identity.ClusterID())
	if first != nil {
		a.persist(ctx, step{"give the command line here its token", token.ensure})
	}
}

// tryOnce runs what the start does not wait for.
func (a *App) tryOnce(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return fn(ctx)
}

// persist tries the step until it is done; false when ctx ended before that.
func (a *App) persist(ctx context.Context, s step) bool {
	for tried := 0; ; tried++ {
		attempt, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := s.fn(attempt)
		cancel()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if tried%20 == 10 {
			a.log.Warn("not done yet: "+s.name, "err", err)
		}
		wait := time.NewTimer(min(settleRetry*time.Duration(1+tried/20), settlePause))
		select {
		case <-ctx.Done():
			wait.Stop()
			return false
		case <-wait.C:
		}
	}
}

// found makes what a new cluster begins with. Each part is made once, whoever tried before.
func (a *App) found(ctx context.Context) error {
	if a.setup == nil || len(a.setup.Members) == 0 {
		return nil
	}
	if a.state.wait().Format() == 0 {
		if _, _, err := a.node.Propose(ctx, command.NewSetFormat(machine.Format)); err != nil {
			return fmt.Errorf("set format: %w", err)
		}
	}
	about, err := json.Marshal(map[string]any{"id": a.setup.ClusterID})
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	_, err = a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketSettings, Key: "cluster"}},
		Ops:      []command.Op{{Bucket: bucketSettings, Key: "cluster", Value: about}},
		Audit:    []command.AuditRecord{{Actor: "node " + a.cfg.NodeID, Action: "cluster.found", Target: a.setup.ClusterID}},
	})
	if err != nil && !errors.Is(err, auth.ErrConflict) {
		return err
	}
	if a.setup.User == "" {
		return nil
	}
	by := auth.Principal{Name: a.cfg.NodeID, Kind: auth.KindNode}
	if a.setup.Invite != "" {
		err = a.auth.InviteFirst(ctx, a.setup.User, a.setup.Invite, time.Duration(a.setup.InviteLife), by)
	} else {
		err = a.auth.CreateUser(ctx, a.setup.User, a.setup.Password, auth.RoleAdministrator, by)
	}
	if err != nil && !errors.Is(err, auth.ErrExists) {
		return err
	}
	return nil
}

// noteRestore writes into the audit log that the cluster goes on from a backup.
func (a *App) noteRestore(ctx context.Context) error {
	if a.setup == nil || a.setup.Restored == nil {
		return nil
	}
	detail, err := json.Marshal(a.setup.Restored)
	if err != nil {
		return fmt.Errorf("encode note of the restore: %w", err)
	}
	const noted = "restored_noted"
	_, err = a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketSettings, Key: noted + "/" + a.setup.Restored.Incarnation}},
		Ops:      []command.Op{{Bucket: bucketSettings, Key: noted + "/" + a.setup.Restored.Incarnation, Value: []byte("true")}},
		Audit: []command.AuditRecord{{
			Actor: "node " + a.cfg.NodeID, Action: "snapshot.restore", Target: a.identity.ClusterID(), Detail: detail,
		}},
	})
	if errors.Is(err, auth.ErrConflict) { // noted before this start
		return nil
	}
	return err
}

// writeRecord makes the record of this node say how it is reached now.
func (a *App) writeRecord(ctx context.Context) error {
	if err := a.node.Barrier(ctx); err != nil {
		return err
	}
	want := nodeRecord{
		ID: a.cfg.NodeID, PeerAddr: a.cfg.Listen.Peer.Advertise, URL: a.cfg.Listen.HTTP.URL,
		AgentURL: a.cfg.Listen.Agents.Advertise, Version: a.version, JoinedAt: a.state.LogTime(),
	}
	held, ok := a.state.Get(bucketNodes, want.ID)
	said := map[string]any{"after": want}
	if ok {
		var have nodeRecord
		if json.Unmarshal(held.Data, &have) == nil {
			want.JoinedAt = have.JoinedAt
			if have == want {
				return nil
			}
			said = map[string]any{"before": have, "after": want}
		}
	}
	body, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	detail, err := json.Marshal(said)
	if err != nil {
		return fmt.Errorf("encode audit record: %w", err)
	}
	_, err = a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketNodes, Key: want.ID, ModIndex: held.ModIndex}},
		Ops:      []command.Op{{Bucket: bucketNodes, Key: want.ID, Value: body}},
		Audit:    []command.AuditRecord{{Actor: "node " + want.ID, Action: "node.record", Target: want.ID, Detail: detail}},
	})
	return err
}

func (a *App) finishSetup(context.Context) error {
	if a.setup == nil {
		return nil
	}
	if err := removeFile(filepath.Join(a.cfg.DataDir, restoreMark)); err != nil { // a power loss can bring it back
		return fmt.Errorf("remove mark of the restore: %w", err)
	}
	return removeSetup(a.cfg.DataDir)
}

// joinPeers asks the members of the setup to take this node in. The leader gives it its vote when it has caught up.
func (a *App) joinPeers(ctx context.Context) error {
	if a.setup == nil || len(a.setup.Peers) == 0 || a.isMember() {
		return nil
	}
	client := forward.NewClient(a.peerIdentity(), func(id string) (string, error) {
		for _, p := range a.setup.Peers {
			if p.ID == id {
				return p.Addr, nil
			}
		}
		return "", fmt.Errorf("node %s is not among the peers of the setup", id)
	})
	defer client.Close()
	body, err := json.Marshal(joiner{raftstate.Server{ID: a.cfg.NodeID, Addr: a.cfg.Listen.Peer.Advertise}, machine.Format})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	var errs []error
	for _, p := range a.setup.Peers {
		if err := askToJoin(ctx, client, p.ID, body); err == nil {
			return nil
		} else {
			if e, ok := errors.AsType[*endedError](err); ok {
				a.ended(e.by, e.why)
			}
			errs = append(errs, fmt.Errorf("node %s: %w", p.ID, err))
		}
	}
	return errors.Join(errs...)
}

func askToJoin(ctx context.Context, client *forward.Client, peer string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+peer+peerJoinPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Transport().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusForbidden {
		return peerRefusal(peer, resp)
	}
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s: %s", resp.Status, said)
	}
	return nil
}

// isMember reports whether the log, as far as this node has it, says that it is a member.
func (a *App) isMember() bool {
	_, ok := a.memberOf(a.cfg.NodeID)
	return ok
}
