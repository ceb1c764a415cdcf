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
	"sync"

	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/forward"
)

// peerRingPath is where a member that lost its key ring gets it again, wrapped to a key made for this one time.
const peerRingPath = "/appliance/keyring"

const (
	maxRingRequest = 4 << 10
	maxRingAnswer  = 256 << 10
)

// ringHint is what to do on a node without a key ring.
const ringHint = "start another member that has the ring, this node takes it from there by itself; " +
	"if no member has it, put a saved copy of keyring.json back into tls.dir and restart"

// Keys are the cluster's keys as this node holds them: what seals secrets before they are proposed. Safe for
// concurrent use.
type Keys struct {
	dir string // the node's TLS directory
	app *App

	mu   sync.RWMutex
	ring *keyring.Ring // nil while this node has none

	rotating sync.Mutex // one rotation at a time
	offered  string     // key that an attempt made and not every member confirmed; rotating is held
}

// openKeys reads the node's key ring. A node without one starts all the same: it holds everything but can open no
// secret, and asks its peers for the ring.
func openKeys(dir string) (*Keys, error) {
	k := &Keys{dir: dir}
	ring, err := keyring.Load(dir)
	if err != nil && !errors.Is(err, keyring.ErrNoRing) {
		return nil, err
	}
	k.ring = ring
	return k, nil
}

// Ring returns the ring, or keyring.ErrNoRing with the place where it should be.
func (k *Keys) Ring() (*keyring.Ring, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.ring == nil {
		return nil, fmt.Errorf("%s is missing: %w", filepath.Join(k.dir, keyring.File), keyring.ErrNoRing)
	}
	return k.ring, nil
}

// Seal encrypts a secret for a purpose, which must be named again to open it (keyring.Ring.Seal).
func (k *Keys) Seal(purpose string, plain []byte) (string, error) {
	ring, err := k.Ring()
	if err != nil {
		return "", fmt.Errorf("seal %s: %w", purpose, err)
	}
	return ring.Seal(purpose, plain)
}

// Open is the inverse of Seal (keyring.Ring.Open).
func (k *Keys) Open(purpose, sealed string) ([]byte, error) {
	ring, err := k.Ring()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", purpose, err)
	}
	return ring.Open(purpose, sealed)
}

// Keys returns the cluster's keys as this node holds them.
func (a *App) Keys() *Keys { return a.keys }

// ringStatus is what a node says of its ring: names of keys, which are no secrets.
type ringStatus struct {
	Active   string   `json:"active"`
	Keys     []string `json:"keys"`
	Recovery string   `json:"recovery"` // the recipient, age1...
}

func (k *Keys) status() *ringStatus {
	ring, err := k.Ring()
	if err != nil {
		return nil
	}
	ids := ring.KeyIDs()
	return &ringStatus{Active: ids[0], Keys: ids, Recovery: ring.Recovery()}
}

type ringRequest struct {
	Recipient string `json:"recipient"`
}

// wrapRing answers a member that lost its ring. Only members reach the peer port, and each holds the ring by right.
func (a *App) wrapRing(w http.ResponseWriter, r *http.Request) error {
	var req ringRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRingRequest)).Decode(&req); err != nil {
		return problem.Wrap(http.StatusBadRequest, err)
	}
	ring, err := a.keys.Ring()
	if err != nil {
		return problem.Wrap(http.StatusNotFound, err)
	}
	wrapped, err := ring.WrapTo(req.Recipient)
	if err != nil {
		return problem.Wrap(http.StatusBadRequest, err)
	}
	a.log.Info("key ring given to a member that has none", "node", forward.PeerID(r.TLS))
	_, _ = w.Write(wrapped) // the other node is gone: it will ask again
	return nil
}

// fetchRing takes the ring from a peer when this node has none.
func (a *App) fetchRing(ctx context.Context) error {
	if _, err := a.keys.Ring(); err == nil {
		return nil
	}
	identity, recipient, err := keyring.NewJoiner()
	if err != nil {
		return err
	}
	body, err := json.Marshal(ringRequest{recipient})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	errs := []error{fmt.Errorf("%s is missing; %s", filepath.Join(a.cfg.TLS.Dir, keyring.File), ringHint)}
	for _, m := range a.node.Status().Members {
		if m.ID == a.cfg.NodeID {
			continue
		}
		wrapped, err := a.askForRing(ctx, m.ID, body)
		if err == nil {
			var ring *keyring.Ring
			if ring, err = keyring.Unwrap(wrapped, identity); err == nil {
				a.log.Info("key ring taken from a member", "from", m.ID)
				return a.keys.merge(ring) // a newer one may have been offered meanwhile
			}
		}
		errs = append(errs, fmt.Errorf("node %s: %w", m.ID, err))
	}
	return errors.Join(errs...)
}

func (a *App) askForRing(ctx context.Context, peer string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+peer+peerRingPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := a.node.PeerClient().Transport().RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxRingAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %.300s", resp.Status, said)
	}
	return said, nil
}
