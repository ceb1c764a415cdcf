package alerting

import (
	"context"
	"fmt"
	"maps"
)

// Reseal seals the secrets of receivers anew that current says are not sealed with the present key, and returns how
// many that were.
func (s *Service) Reseal(ctx context.Context, current func(sealed string) bool, by By) (n int, err error) {
	err = retrying(func() error {
		n = 0
		s.board.refresh()
		s.board.mu.RLock()
		have := s.board.routes
		s.board.mu.RUnlock()
		rec := have.rec
		rec.Sealed = maps.Clone(rec.Sealed)
		for place, sealed := range rec.Sealed {
			if current(sealed) {
				continue
			}
			plain, err := s.cfg.Sealer.Open(sealPurpose+place, sealed)
			if err == nil {
				rec.Sealed[place], err = s.cfg.Sealer.Seal(sealPurpose+place, plain)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", place, err)
			}
			n++
		}
		if n == 0 {
			return nil
		}
		return s.commit(ctx, Txn{
			Compares: []Compare{{BucketRoutes, keyRoutes, have.mod}},
			Ops:      []Op{{Bucket: BucketRoutes, Key: keyRoutes, Value: encode(rec)}},
			Audit:    by.audit("routes.reseal", keyRoutes, map[string]any{"secrets": n}),
		})
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
