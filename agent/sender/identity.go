package sender

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Identity is what enrollment gives an agent. It is kept in one file that only the agent may read: the key is a
// secret, and certificate and key change together.
type Identity struct {
	AgentID   string   `json:"agent_id"`
	ClusterID string   `json:"cluster_id"`
	Hostname  string   `json:"hostname,omitempty"` // that the agent enrolled as; identities of older agents lack it
	Nodes     []string `json:"nodes"`
	CA        string   `json:"ca_pem,omitempty"`  // that nodes are checked by; empty means the roots of the system
	Cert      string   `json:"cert_pem"`          // the agent's own
	Key       string   `json:"key_pem,omitempty"` // of the certificate; made here, never sent
}

// ErrNotRegistered says that there is no identity file yet.
var ErrNotRegistered = errors.New("agent is not enrolled")

// LoadIdentity reads the identity file.
func LoadIdentity(path string) (Identity, error) {
	var id Identity
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return id, fmt.Errorf("%w: %s does not exist; run `triward-agent enroll` first", ErrNotRegistered, path)
	}
	if err != nil {
		return id, fmt.Errorf("read identity: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&id); err != nil {
		return id, fmt.Errorf("identity file %s: %w", path, err)
	}
	if id.AgentID == "" || id.Key == "" || id.Cert == "" {
		return id, fmt.Errorf("%w: identity file %s lacks agent_id, cert_pem or key_pem; run `triward-agent enroll --force`", ErrNotRegistered, path)
	}
	if _, err := NewCredentials(id); err != nil {
		return id, fmt.Errorf("identity file %s: %w; run `triward-agent enroll --force`", path, err)
	}
	return id, nil
}

// Save writes the identity file (mode 0600) so that a crash leaves the old or the new one.
func (id Identity) Save(path string) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of the identity: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".identity-*")
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}
