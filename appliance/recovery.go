package appliance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
)

// recoveryFile lies beside the node's certificate and holds what the node needs to make itself a new one when no other
// node can be asked: the CA, its key sealed with the key ring, and the ring wrapped to the cluster's recovery key. Nothing
// in it can be read without one of the two.
const recoveryFile = "recovery.json"

const (
	recoveryVersion = 1
	maxRecovery     = 512 << 10
	purposeNodeCA   = "pki/nodes" // what the key of the CA is sealed for
)

// ErrNoCAKey says that a certificate cannot be issued, since nothing here gives the key of the CA.
var ErrNoCAKey = errors.New("the key of the cluster's CA is not here")

// recovery is the content of recoveryFile.
type recovery struct {
	Version     int      `json:"version"`
	CA          string   `json:"ca_pem"`
	CAKey       string   `json:"ca_key_sealed"`
	Ring        []byte   `json:"key_ring_wrapped"` // age, to the recovery recipient
	Keys        []string `json:"keys"`             // names of those in Ring
	Incarnation string   `json:"incarnation,omitempty"`
	Member      uint64   `json:"member,omitempty"` // number of the membership that the node's certificate is of
}

// SaveRecovery writes the recovery file of the node from its CA, certificate and key ring, unless it is there and
// says the same. A node that lacks one of these keeps the file that it has. The configuration must be resolved.
func (c *Config) SaveRecovery() error {
	ring, err := keyring.Load(c.TLS.Dir)
	if errors.Is(err, keyring.ErrNoRing) {
		return nil
	}
	if err != nil {
		return err
	}
	id, err := pki.Load(c.TLS.Dir)
	if err != nil {
		return err
	}
	ca := id.CA()
	if ca == nil {
		return nil
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	path := filepath.Join(c.TLS.Dir, recoveryFile)
	if have, err := readRecovery(path); err == nil && have.says(ring, ca, key, id) {
		return nil
	}
	r := recovery{Version: recoveryVersion, CA: string(ca.CertPEM()), Keys: ring.KeyIDs(), Incarnation: id.Incarnation(), Member: id.MemberNumber()}
	if r.CAKey, err = ring.Seal(purposeNodeCA, key); err != nil {
		return err
	}
	if r.Ring, err = ring.WrapTo(ring.Recovery()); err != nil {
		return err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode recovery file: %w", err)
	}
	return pki.WriteSecret(path, body)
}

func (r *recovery) says(ring *keyring.Ring, ca *pki.CA, key []byte, id *pki.Identity) bool {
	held, err := ring.Open(purposeNodeCA, r.CAKey)
	return err == nil && bytes.Equal(held, key) && r.CA == string(ca.CertPEM()) && slices.Equal(r.Keys, ring.KeyIDs()) && r.Incarnation == id.Incarnation() && r.Member == id.MemberNumber()
}

func readRecovery(path string) (*recovery, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read recovery file: %w", err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxRecovery+1))
	if err != nil {
		return nil, fmt.Errorf("read recovery file: %w", err)
	}
	return parseRecovery(path, body)
}

// parseRecovery reads the content of a recovery file; path names it in errors.
func parseRecovery(path string, body []byte) (*recovery, error) {
	if len(body) > maxRecovery {
		return nil, fmt.Errorf("recovery file %s is larger than %d bytes", path, maxRecovery)
	}
	var r recovery
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("recovery file %s: %w", path, err)
	}
	if r.Version != recoveryVersion {
		return nil, fmt.Errorf("recovery file %s has version %d, this program knows %d: %w", path, r.Version, recoveryVersion, ErrNewerFormat)
	}
	return &r, nil
}

// IssueOptions say how a node makes itself a new certificate.
type IssueOptions struct {
	// From names a recovery file of another node of the cluster and Recovery is its content; empty takes the node's own.
	From     string
	Recovery []byte
	// RecoveryKey (AGE-SECRET-KEY-1...) opens it where the node has no key ring; empty for none.
	RecoveryKey string
	Hosts       []string // further names and addresses for the certificate
	Now         time.Time
}

// Issued says what was made.
type Issued struct {
	Node    string    `json:"node"`
	Hosts   []string  `json:"hosts"`
	Expires time.Time `json:"expires"`
	CAFrom  string    `json:"ca_key_from"` // where the CA's key was found
	Ring    bool      `json:"key_ring_restored"`
}

// Reissue makes the node a new certificate without asking anybody: with the key of the CA that lies here, else from a
// recovery file, opened with the key ring that lies here or with the recovery key. What is missing of CA, key and ring is
// put back as well. The node must not run; the configuration must be resolved.
func (c *Config) Reissue(opts IssueOptions) (_ *Issued, err error) {
	release, err := lockDir(c.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	out := &Issued{Node: c.NodeID}
	ca, incarnation, member, err := c.findCA(&opts, out)
	if err != nil {
		return nil, err
	}
	if err := ca.Good(opts.Now); err != nil {
		return nil, err
	}
	old, err := pki.ReadCertificate(c.TLS.Dir)
	if err != nil && !errors.Is(err, pki.ErrUnusable) && !errors.Is(err, pki.ErrNotInitialised) {
		return nil, err
	}
	out.Hosts = append(c.Hosts(), opts.Hosts...)
	if old != nil {
		if name := old.Subject.CommonName; name != c.NodeID {
			return nil, fmt.Errorf("the certificate in %s is of node %q, this is node %q: set node_id back", c.TLS.Dir, name, c.NodeID)
		}
		incarnation, member = pki.Incarnation(old), pki.MemberNumber(old)
		out.Hosts = append(out.Hosts, pki.Hosts(old)...)
	} else if own, err := readRecovery(filepath.Join(c.TLS.Dir, recoveryFile)); opts.From != "" && err == nil && c.ofThisCluster(c.TLS.Dir, own) == nil {
		member = own.Member // another node's file says nothing of this one's
	}
	out.Hosts = unique(out.Hosts)
	cert, key, err := ca.InIncarnation(incarnation).ForMember(member).Issue(c.NodeID, out.Hosts, opts.Now)
	if err != nil {
		return nil, err
	}
	caKey, err := ca.KeyPEM()
	if err != nil {
		return nil, err
	}
	files := pki.Files{CA: ca.CertPEM(), CAKey: caKey, Cert: cert, Key: key}
	if err := files.Save(c.TLS.Dir); err != nil {
		return nil, err
	}
	out.Expires = opts.Now.Add(pki.NodeLife)
	return out, c.SaveRecovery()
}

func unique(list []string) (out []string) {
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// findCA returns the CA and, from a recovery file, the incarnation and the membership that certificates name. Another
// node's file says nothing of this one's membership.
func (c *Config) findCA(opts *IssueOptions, out *Issued) (*pki.CA, string, uint64, error) {
	path := opts.From
	if path == "" {
		path = filepath.Join(c.TLS.Dir, recoveryFile)
	}
	ca, errKey := pki.LoadCA(c.TLS.Dir)
	ring, errRing := keyring.Load(c.TLS.Dir)
	var r *recovery
	var errFile error
	if opts.From != "" {
		r, errFile = parseRecovery(path, opts.Recovery)
	} else {
		r, errFile = readRecovery(path)
	}
	if errFile != nil && (ca == nil || opts.From != "" || opts.RecoveryKey != "") {
		if errors.Is(errFile, fs.ErrNotExist) {
			if err := c.Initialised(); err != nil {
				return nil, "", 0, err // nothing was ever here
			}
			return nil, "", 0, fmt.Errorf("%w (%v), and neither is %s", ErrNoCAKey, errKey, path) //nolint:errorlint // it would say that the node was never set up
		}
		return nil, "", 0, errFile
	}
	if r != nil { // nothing is taken of a file before it is known to be of this cluster
		if err := c.ofThisCluster(path, r); err != nil {
			if ca == nil || opts.From != "" || opts.RecoveryKey != "" {
				return nil, "", 0, err
			}
			r = nil
		}
	}
	if opts.RecoveryKey != "" {
		opened, err := keyring.Unwrap(r.Ring, opts.RecoveryKey)
		if err != nil {
			return nil, "", 0, fmt.Errorf("recovery file %s: %w", path, err)
		}
		if errRing != nil { // the node's own, when it has one, may be newer
			if err := opened.Save(c.TLS.Dir); err != nil {
				return nil, "", 0, err
			}
			ring, errRing, out.Ring = opened, nil, true
		}
	}
	incarnation, member := "", uint64(0)
	if r != nil {
		incarnation = r.Incarnation
		if opts.From == "" {
			member = r.Member
		}
	}
	if ca != nil {
		out.CAFrom = filepath.Join(c.TLS.Dir, pki.FileCAKey)
		return ca, incarnation, member, nil
	}
	if errRing != nil {
		return nil, "", 0, fmt.Errorf("%w; %s opens with the key ring or with the recovery key: %w", ErrNoCAKey, path, errRing)
	}
	key, err := ring.Open(purposeNodeCA, r.CAKey)
	if err != nil {
		return nil, "", 0, fmt.Errorf("recovery file %s: %w", path, err)
	}
	if ca, err = pki.ParseCA([]byte(r.CA), key); err != nil {
		return nil, "", 0, fmt.Errorf("recovery file %s: %w", path, err)
	}
	out.CAFrom = path
	return ca, incarnation, member, nil
}

// ofThisCluster refuses a recovery file of another cluster than the one whose CA lies here, if one does.
func (c *Config) ofThisCluster(path string, r *recovery) error {
	cert, err := pki.ParseCertificate([]byte(r.CA))
	if err != nil {
		return fmt.Errorf("recovery file %s: its CA: %w", path, err)
	}
	if err := pki.SameCA(c.TLS.Dir, cert); err != nil {
		return fmt.Errorf("recovery file %s: %w", path, err)
	}
	return nil
}
