package appliance

import "github.com/triward/triward/appliance/keyring"

// SetRing makes the ring this node's, as if it had lost the keys that came since.
func (k *Keys) SetRing(r *keyring.Ring) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ring = r
}
