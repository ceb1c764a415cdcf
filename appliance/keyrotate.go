package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
)

// A new key seals in four steps (DESIGN D14): one node makes it, every member takes it and says so, an entry of the log
// makes it the one that seals, and what was sealed with older keys is sealed anew. Until the entry nothing has changed; a
// member that cannot be reached stops the rotation there. Older keys stay in the ring, for what was sealed meanwhile.

const (
	keySealing = "keyring" // in bucketSettings: which key seals
	// peerRingTakePath makes a member take the ring from the member that asks.
	peerRingTakePath = "/appliance/keyring/take"
	// sealingCheck is how often a node looks which key seals.
	sealingCheck = time.Second
	casRetries   = 5
)

// sealingKey is the record in bucketSettings.
type sealingKey struct {
	Active string `json:"active"`
	Since  int64  `json:"since"` // log time, milliseconds
}

type takeRing struct {
	Key string `json:"key"` // that the ring must hold then
}

// RotateKey implements api.Keys.
func (k *Keys) RotateKey(ctx context.Context, by api.Operator) (api.RotatedKey, error) {
	var none api.RotatedKey
	a := k.app
	if !k.rotating.TryLock() {
		return none, problem.New(http.StatusConflict, "this node is rotating the key already")
	}
	defer k.rotating.Unlock()
	if err := a.node.Barrier(ctx); err != nil {
		return none, err
	}
	// A node that lacks the key that seals now could not open what it has to seal anew, and would never look for it again.
	if err := k.follow(ctx); err != nil {
		return none, problem.Wrap(http.StatusConflict, err).WithHint(ringHint)
	}
	ring, err := k.Ring()
	if err != nil {
		return none, problem.Wrap(http.StatusConflict, err).WithHint(ringHint)
	}
	held, _ := a.state.Get(bucketSettings, keySealing)
	next, id, err := ring.WithNewKey()
	if err != nil {
		return none, problem.Wrap(http.StatusConflict, err)
	}
	if k.offered != "" && ring.Holds(k.offered) && k.offered != ring.KeyIDs()[0] {
		next, id = ring, k.offered // of an attempt that some member did not confirm
	}
	if err := k.merge(next); err != nil {
		return none, err
	}
	k.offered = id
	if err := a.offerRing(ctx, id); err != nil {
		return none, problem.Wrap(http.StatusConflict, fmt.Errorf("nothing has changed, key %s goes on sealing: %w", ring.KeyIDs()[0], err)).
			WithHint("every node must take the new key before it seals: bring up the one that does not answer, and repeat")
	}
	value, err := json.Marshal(sealingKey{Active: id, Since: a.state.LogTime()})
	if err != nil {
		return none, fmt.Errorf("encode sealing key: %w", err)
	}
	_, err = a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketSettings, Key: keySealing, ModIndex: held.ModIndex}},
		Ops:      []command.Op{{Bucket: bucketSettings, Key: keySealing, Value: value}},
		Audit:    []command.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "key.rotate", Target: id}},
	})
	if errors.Is(err, auth.ErrConflict) {
		return none, problem.New(http.StatusConflict, "another node has rotated the key at the same time").WithHint("look at `triward key status`")
	}
	if err != nil {
		return none, err
	}
	if err := k.follow(ctx); err != nil {
		return none, err
	}
	k.offered = ""
	n, err := a.reseal(ctx, by)
	if err != nil { // the key seals; what is sealed with the old one opens as before
		return api.RotatedKey{Key: id, Resealed: n, Warning: "not everything is sealed with the new key yet, repeat to go on: " + err.Error()}, nil
	}
	return api.RotatedKey{Key: id, Resealed: n}, nil
}

// offerRing makes every other member take the ring of this node, and returns who does not hold the key then.
func (a *App) offerRing(ctx context.Context, key string) error {
	body, err := json.Marshal(takeRing{key})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	var errs []error
	for _, m := range a.node.Status().Members {
		if m.ID == a.cfg.NodeID {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, 2*peerPatience)
		if err := a.postPeer(ask, m.ID, peerRingTakePath, body); err != nil {
			errs = append(errs, fmt.Errorf("node %s does not confirm: %w", m.ID, err))
		}
		cancel()
	}
	return errors.Join(errs...)
}

func (a *App) postPeer(ctx context.Context, peer, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+peer+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := a.node.PeerClient().Transport().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return errors.New(resp.Status)
	}
	return nil
}

// takeOffered takes the ring from the member that asks for it, and confirms that it holds the key now.
func (a *App) takeOffered(w http.ResponseWriter, r *http.Request) error {
	var req takeRing
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRingRequest)).Decode(&req); err != nil {
		return problem.Wrap(http.StatusBadRequest, err)
	}
	if err := a.mergeFrom(r.Context(), forward.PeerID(r.TLS)); err != nil {
		return problem.Wrap(http.StatusConflict, err)
	}
	ring, err := a.keys.Ring()
	if err != nil || !ring.Holds(req.Key) {
		return problem.New(http.StatusConflict, fmt.Sprintf("the ring does not hold key %.40q", req.Key))
	}
	return nil
}

// mergeFrom adds the keys of a member's ring to this node's.
func (a *App) mergeFrom(ctx context.Context, peer string) error {
	identity, recipient, err := keyring.NewJoiner()
	if err != nil {
		return err
	}
	body, err := json.Marshal(ringRequest{recipient})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	wrapped, err := a.askForRing(ctx, peer, body)
	if err != nil {
		return err
	}
	theirs, err := keyring.Unwrap(wrapped, identity)
	if err != nil {
		return err
	}
	return a.keys.merge(theirs)
}

// merge saves the ring with the keys of another copy of it.
func (k *Keys) merge(other *keyring.Ring) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := other
	if k.ring != nil {
		merged, changed, err := k.ring.Merged(other)
		if err != nil || !changed {
			return err
		}
		next = merged
	}
	if err := next.Save(k.dir); err != nil {
		return err
	}
	k.ring = next
	return nil
}

// activate saves the ring with that key as the one that seals.
func (k *Keys) activate(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring == nil {
		return keyring.ErrNoRing
	}
	if k.ring.KeyIDs()[0] == id {
		return nil
	}
	next, err := k.ring.Sealing(id)
	if err != nil {
		return err
	}
	if err := next.Save(k.dir); err != nil {
		return err
	}
	k.ring = next
	return nil
}

// follow makes the key seal that the log says. A node that lacks it takes it from another.
func (k *Keys) follow(ctx context.Context) error {
	a := k.app
	held, ok := a.state.Get(bucketSettings, keySealing)
	if !ok {
		return nil
	}
	var rec sealingKey
	if err := json.Unmarshal(held.Data, &rec); err != nil {
		return fmt.Errorf("read which key seals: %w", err)
	}
	ring, err := k.Ring()
	if err != nil {
		return err // it is being taken from a member as a whole
	}
	if ring.KeyIDs()[0] == rec.Active {
		return nil
	}
	var errs []error
	for _, m := range a.node.Status().Members {
		if ring.Holds(rec.Active) {
			break
		}
		if m.ID == a.cfg.NodeID {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, peerPatience)
		if err := a.mergeFrom(ask, m.ID); err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", m.ID, err))
		}
		cancel()
		if ring, err = k.Ring(); err != nil {
			return err
		}
	}
	if err := k.activate(rec.Active); err != nil {
		return errors.Join(append(errs, err)...)
	}
	a.log.Info("another key seals from now on", "key", rec.Active)
	return a.cfg.SaveRecovery()
}

// followKeys keeps the key that seals the one that the log says, until ctx ends.
func (a *App) followKeys(ctx context.Context) {
	tick := time.NewTicker(sealingCheck)
	defer tick.Stop()
	told := ""
	for {
		err := a.keys.follow(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != told && !errors.Is(err, keyring.ErrNoRing) {
			told = err.Error()
			a.log.Warn("this node does not have the key that seals", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// reseal seals with the present key what older ones sealed, and returns how many values that were.
func (a *App) reseal(ctx context.Context, by api.Operator) (int, error) {
	var n int
	var errs []error
	for _, part := range []struct {
		name string
		fn   func() (int, error)
	}{
		{"CAs of agents", func() (int, error) { return a.resealCAs(ctx, by) }},
		{"receivers", func() (int, error) {
			return a.alerts.Reseal(ctx, a.keys.Current, alerting.By{Actor: by.Name, Address: by.Address})
		}},
		{"backup targets", func() (int, error) {
			return a.snapshots.reseal(ctx, a.keys.Current, schedule.Actor{Name: by.Name, Address: by.Address})
		}},
		{"archive of lines", func() (int, error) {
			return a.archive.Reseal(ctx, a.keys.Current, schedule.Actor{Name: by.Name, Address: by.Address})
		}},
	} {
		done, err := part.fn()
		n += done
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part.name, err))
		}
	}
	return n, errors.Join(errs...)
}

// Current reports whether a value was sealed with the key that seals now.
func (k *Keys) Current(sealed string) bool {
	ring, err := k.Ring()
	return err == nil && ring.Current(sealed)
}

func (a *App) resealCAs(ctx context.Context, by api.Operator) (int, error) {
	for range casRetries {
		held, ok := a.state.Get(bucketPKI, keyAgentCAs)
		if !ok {
			return 0, nil
		}
		var rec agentCARecord
		if err := json.Unmarshal(held.Data, &rec); err != nil {
			return 0, fmt.Errorf("read CAs of agents: %w", err)
		}
		n := 0
		for i := range rec.CAs {
			if a.keys.Current(rec.CAs[i].Key) {
				continue
			}
			plain, err := a.keys.Open(purposeAgentCA, rec.CAs[i].Key)
			if err == nil {
				rec.CAs[i].Key, err = a.keys.Seal(purposeAgentCA, plain)
			}
			if err != nil {
				return 0, err
			}
			n++
		}
		if n == 0 {
			return 0, nil
		}
		body, err := json.Marshal(rec)
		if err != nil {
			return 0, fmt.Errorf("encode CAs of agents: %w", err)
		}
		_, err = a.commit(ctx, command.Txn{
			Compares: []command.Compare{{Bucket: bucketPKI, Key: keyAgentCAs, ModIndex: held.ModIndex}},
			Ops:      []command.Op{{Bucket: bucketPKI, Key: keyAgentCAs, Value: body}},
			Audit:    []command.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "pki.agents.reseal"}},
		})
		if !errors.Is(err, auth.ErrConflict) {
			return n, err
		}
	}
	return 0, fmt.Errorf("changed by others again and again: %w", auth.ErrConflict)
}
