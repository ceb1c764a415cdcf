// Package keyring keeps the cluster's keys that seal secrets before they are proposed (DESIGN D14, invariant I7): CA
// keys, credentials of receivers and of backup targets. The log, the stores and backups hold what Seal returns and
// never a secret in clear.
//
// A ring is made when the cluster is, together with a recovery key that is shown once and kept by people. It lies in
// a file of each node (mode 0600), travels to a joining node wrapped to a key that the joiner made for this one time
// (age, X25519), outside the log, and goes into backups wrapped to the recovery key. The package imports nothing of
// Triward but pki's way of writing a secret file.
package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"filippo.io/age"

	"github.com/triward/triward/appliance/pki"
)

// File is the ring's file in a node's TLS directory.
const File = "keyring.json"

const (
	ringVersion  = 1
	sealedPrefix = "tws1"
	keySize      = 32 // AES-256
	idSize       = 8
	maxKeys      = 64
	maxRing      = 64 << 10
	maxSealed    = 1 << 20
)

// Sentinels of this package.
var (
	// ErrNoRing says that the directory holds no ring.
	ErrNoRing = errors.New("this node has no key ring")
	// ErrUnknownKey says that a value is sealed with a key that the ring does not hold.
	ErrUnknownKey = errors.New("sealed with a key that this ring does not hold")
	// ErrSealed says that a sealed value is damaged, or was sealed for another purpose.
	ErrSealed = errors.New("sealed value cannot be opened")
	// ErrFull says that the ring holds as many keys as it may.
	ErrFull = errors.New("the ring is full")
	// ErrUnwrap says that a wrapped ring does not open with the key given.
	ErrUnwrap = errors.New("the ring does not open with this key")
)

// Ring is the keys of a cluster. It is safe for concurrent use.
type Ring struct {
	mu       sync.RWMutex
	keys     map[string][]byte // by id
	active   string            // seals
	recovery string            // age recipient that backups are wrapped to
}

// ringFile is the form of a ring in its file and when wrapped.
type ringFile struct {
	Version  int               `json:"version"`
	Active   string            `json:"active"`
	Recovery string            `json:"recovery"`
	Keys     map[string][]byte `json:"keys"`
}

// New makes the ring of a new cluster and its recovery key (an age identity, AGE-SECRET-KEY-1...), which is kept
// nowhere: whoever calls shows it once.
func New() (r *Ring, recoveryKey string, err error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, "", fmt.Errorf("make recovery key: %w", err)
	}
	r = &Ring{keys: make(map[string][]byte), recovery: identity.Recipient().String()}
	id := r.add()
	r.active = id
	return r, identity.String(), nil
}

// add makes a key that does not seal yet and returns its id.
func (r *Ring) add() string {
	key := make([]byte, keySize)
	rand.Read(key)
	var name [idSize]byte
	rand.Read(name[:])
	id := hex.EncodeToString(name[:])
	r.keys[id] = key
	return id
}

// Load reads the ring of the directory. It returns ErrNoRing when there is none.
func Load(dir string) (*Ring, error) {
	path := filepath.Join(dir, File)
	body, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoRing)
	}
	if err != nil {
		return nil, fmt.Errorf("read key ring: %w", err)
	}
	r, err := Parse(body)
	if err != nil {
		return nil, fmt.Errorf("key ring %s: %w", path, err)
	}
	return r, nil
}

// Parse reads a ring from the content of its file.
func Parse(body []byte) (*Ring, error) {
	var f ringFile
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, err
	}
	switch {
	case f.Version != ringVersion:
		return nil, fmt.Errorf("version %d, this program knows %d", f.Version, ringVersion)
	case len(f.Keys) == 0 || len(f.Keys) > maxKeys:
		return nil, fmt.Errorf("%d keys, 1 to %d are allowed", len(f.Keys), maxKeys)
	case f.Keys[f.Active] == nil:
		return nil, fmt.Errorf("the active key %.40q is not among its keys", f.Active)
	}
	for id, key := range f.Keys {
		if len(key) != keySize {
			return nil, fmt.Errorf("key %.40q has %d bytes, not %d", id, len(key), keySize)
		}
	}
	if _, err := age.ParseX25519Recipient(f.Recovery); err != nil {
		return nil, fmt.Errorf("recovery recipient: %w", err)
	}
	return &Ring{keys: f.Keys, active: f.Active, recovery: f.Recovery}, nil
}

func (r *Ring) encode() ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	body, err := json.Marshal(ringFile{Version: ringVersion, Active: r.active, Recovery: r.recovery, Keys: r.keys})
	if err != nil {
		return nil, fmt.Errorf("encode key ring: %w", err)
	}
	return body, nil
}

// Save writes the ring into the directory, mode 0600, fsynced, whole or not at all.
func (r *Ring) Save(dir string) error {
	body, err := r.encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of the key ring: %w", err)
	}
	return pki.WriteSecret(filepath.Join(dir, File), body)
}

// Recovery is the recipient (age1...) of the recovery key.
func (r *Ring) Recovery() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.recovery
}

// KeyIDs lists the keys in order; the one that seals comes first.
func (r *Ring) KeyIDs() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rest := slices.DeleteFunc(slices.Sorted(maps.Keys(r.keys)), func(id string) bool { return id == r.active })
	return append([]string{r.active}, rest...)
}

// Seal encrypts plain (AES-256-GCM, a random nonce) for a purpose, which must be named again to open it, so that a
// sealed value moved to another place is of no use there. The result is text: tws1.<key>.<base64url>.
func (r *Ring) Seal(purpose string, plain []byte) (string, error) {
	if len(plain) > maxSealed/2 {
		return "", fmt.Errorf("seal %s: %d bytes, at most %d are allowed", purpose, len(plain), maxSealed/2)
	}
	r.mu.RLock()
	id, key := r.active, r.keys[r.active]
	r.mu.RUnlock()
	aead, err := newAEAD(key)
	if err != nil {
		return "", fmt.Errorf("seal %s: %w", purpose, err)
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	rand.Read(nonce)
	box := aead.Seal(nonce, nonce, plain, additional(id, purpose))
	return sealedPrefix + "." + id + "." + base64.RawURLEncoding.EncodeToString(box), nil
}

// Open is the inverse of Seal. Errors are ErrUnknownKey or ErrSealed and never hold the value.
func (r *Ring) Open(purpose, sealed string) ([]byte, error) {
	id, box, err := split(sealed)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", purpose, err)
	}
	r.mu.RLock()
	key := r.keys[id]
	r.mu.RUnlock()
	if key == nil {
		return nil, fmt.Errorf("open %s: key %s: %w", purpose, id, ErrUnknownKey)
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", purpose, err)
	}
	if len(box) < aead.NonceSize() {
		return nil, fmt.Errorf("open %s: %w", purpose, ErrSealed)
	}
	plain, err := aead.Open(nil, box[:aead.NonceSize()], box[aead.NonceSize():], additional(id, purpose))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", purpose, ErrSealed)
	}
	return plain, nil
}

// IsSealed reports whether s has the form of a sealed value.
func IsSealed(s string) bool {
	_, _, err := split(s)
	return err == nil
}

func split(sealed string) (id string, box []byte, err error) {
	parts := strings.SplitN(sealed, ".", 3)
	if len(sealed) > maxSealed || len(parts) != 3 || parts[0] != sealedPrefix || len(parts[1]) != 2*idSize {
		return "", nil, ErrSealed
	}
	box, err = base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil {
		return "", nil, ErrSealed
	}
	return parts[1], box, nil
}

func additional(id, purpose string) []byte {
	return []byte(sealedPrefix + "\x00" + id + "\x00" + purpose)
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// NewJoiner makes the key to which a joining node has the ring wrapped; the identity never leaves that node.
func NewJoiner() (identity, recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("make key for the ring: %w", err)
	}
	return id.String(), id.Recipient().String(), nil
}

// WrapTo returns the ring encrypted to an age recipient (age1...): a joiner's or the recovery key's.
func (r *Ring) WrapTo(recipient string) ([]byte, error) {
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("wrap key ring: %w", err)
	}
	body, err := r.encode()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("wrap key ring: %w", err)
	}
	return out.Bytes(), nil
}

// Unwrap opens what WrapTo returned with the identity (AGE-SECRET-KEY-1...) of its recipient. It returns ErrUnwrap
// when the two do not belong together.
func Unwrap(wrapped []byte, identity string) (*Ring, error) {
	id, err := age.ParseX25519Identity(strings.TrimSpace(identity))
	if err != nil {
		return nil, fmt.Errorf("%w: it is no AGE-SECRET-KEY-1...", ErrUnwrap) // the error would show the key
	}
	src, err := age.Decrypt(bytes.NewReader(wrapped), id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwrap, err)
	}
	body, err := io.ReadAll(io.LimitReader(src, maxRing+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwrap, err)
	}
	if len(body) > maxRing {
		return nil, fmt.Errorf("wrapped key ring is longer than %d bytes", maxRing)
	}
	r, err := Parse(body)
	if err != nil {
		return nil, fmt.Errorf("wrapped key ring: %w", err)
	}
	return r, nil
}
