package schedule

import (
	"errors"
	"fmt"

	"github.com/triward/triward/appliance/backup/target"
)

// Places seals and opens what Wheres name, also for those who keep something else there than backups.
type Places struct {
	// Sealer returns the cluster's key ring, or an error when it has none.
	Sealer func() (Sealer, error)
	// Folder is where the kind folder is on this node.
	Folder string
}

// Check says what is wrong with the description of a place, without asking it.
func (w *Where) Check() error { return w.check() }

// Secure reports whether what is stored there does not go over a network in clear.
func (w *Where) Secure() bool {
	cfg := w.s3("")
	return w.Kind != KindS3 || cfg.Secure()
}

// Shown is the place without the secret key.
func (w *Where) Shown() Where { return w.shown() }

// Seal replaces a secret key that came in clear by its sealed form. An empty one stays what held has.
func (p Places) Seal(w, held *Where) error {
	if w.Kind != KindS3 {
		return nil
	}
	if w.SecretKey == "" {
		if held == nil || held.Kind != KindS3 || held.AccessKey != w.AccessKey || held.Endpoint != w.Endpoint {
			return fmt.Errorf("%w: target: secret_key is missing", ErrInvalid)
		}
		w.SecretKey = held.SecretKey
		return nil
	}
	s, err := p.Sealer()
	if err != nil {
		return errors.Join(ErrUnsealed, err)
	}
	w.SecretKey, err = s.Seal(purpose, []byte(w.SecretKey))
	return err
}

// Reseal seals a sealed secret key with the present key.
func (p Places) Reseal(w *Where) error {
	s, err := p.Sealer()
	if err != nil {
		return errors.Join(ErrUnsealed, err)
	}
	plain, err := s.Open(purpose, w.SecretKey)
	if err == nil {
		w.SecretKey, err = s.Seal(purpose, plain)
	}
	return err
}

// Open opens a place whose secret key is sealed.
func (p Places) Open(w *Where) (target.Target, error) {
	if w.Kind == KindFolder {
		return &target.Folder{Dir: p.Folder}, nil
	}
	s, err := p.Sealer()
	if err != nil {
		return nil, fmt.Errorf("open the sealed secret key: %w", err)
	}
	secret, err := s.Open(purpose, w.SecretKey)
	if err != nil {
		return nil, fmt.Errorf("open the sealed secret key: %w", err)
	}
	return target.NewS3(w.s3(string(secret)))
}
