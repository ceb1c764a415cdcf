package backup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
)

// Bounds of keys.
const (
	MaxRecipients = 16
	MinPassphrase = 12   // bytes
	MaxPassphrase = 1024 // bytes
	maxRecipient  = 4096 // bytes; those of post-quantum keys are long
	// scryptWork makes deriving a key take 64 MiB, for the node that encrypts and whoever restores. A backup whose
	// maker asks for more than maxScryptWork (1 GiB) is refused.
	scryptWork    = 16
	maxScryptWork = 20
)

// ErrRecipient says that recipients or a passphrase cannot be used; the text says why.
var ErrRecipient = errors.New("cannot encrypt for that")

// Recipients returns who can read a backup that is made for public keys ("age1...") or for a passphrase, not both.
// Neither gives none: the backup will not be encrypted.
func Recipients(keys []string, passphrase string) ([]age.Recipient, error) {
	if passphrase != "" {
		if len(keys) > 0 {
			return nil, fmt.Errorf("%w: a passphrase and public keys at once; choose one", ErrRecipient)
		}
		if len(passphrase) < MinPassphrase || len(passphrase) > MaxPassphrase {
			return nil, fmt.Errorf("%w: the passphrase has %d bytes, want %d to %d", ErrRecipient, len(passphrase), MinPassphrase, MaxPassphrase)
		}
		r, err := age.NewScryptRecipient(passphrase)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRecipient, err)
		}
		r.SetWorkFactor(scryptWork)
		return []age.Recipient{r}, nil
	}
	if len(keys) > MaxRecipients {
		return nil, fmt.Errorf("%w: %d public keys, at most %d are possible", ErrRecipient, len(keys), MaxRecipients)
	}
	var out []age.Recipient
	for _, k := range keys {
		if len(k) > maxRecipient {
			return nil, fmt.Errorf("%w: a public key of %d bytes", ErrRecipient, len(k))
		}
		if strings.HasPrefix(strings.ToUpper(k), "AGE-SECRET-KEY-") {
			return nil, fmt.Errorf("%w: that is a private key; give the public key that belongs to it (age1...) and show the other to nobody", ErrRecipient)
		}
		r, err := age.ParseRecipients(strings.NewReader(k))
		if err != nil || len(r) != 1 {
			return nil, fmt.Errorf("%w: %.40q is no public key of age (age1...)", ErrRecipient, k)
		}
		out = append(out, r...)
	}
	return out, nil
}

// ReadRecipients reads public keys, one a line; empty lines and those that begin with # are passed over.
func ReadRecipients(r io.Reader) ([]string, error) {
	var keys []string
	lines := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if keys = append(keys, line); len(keys) > MaxRecipients {
			return nil, fmt.Errorf("%w: more than %d public keys", ErrRecipient, MaxRecipients)
		}
	}
	return keys, lines.Err()
}

// Identities returns the keys that may open a backup: private keys as a file of age holds them, or a passphrase.
func Identities(files []io.Reader, passphrase string) ([]age.Identity, error) {
	var out []age.Identity
	for _, f := range files {
		ids, err := age.ParseIdentities(io.LimitReader(f, 1<<20))
		if err != nil {
			return nil, fmt.Errorf("read private keys: %w", err)
		}
		out = append(out, ids...)
	}
	if passphrase != "" {
		id, err := age.NewScryptIdentity(passphrase)
		if err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		id.SetMaxWorkFactor(maxScryptWork)
		out = append(out, id)
	}
	return out, nil
}
