package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/triward/triward/appliance/auth"
)

// resealAtOnce is how many records one transaction seals anew.
const resealAtOnce = 32

// Reseal seals secrets anew that current says are not sealed with the present key: keys of targets of schedules, and of
// runs, by which backups are removed, and what opens repositories. It returns how many that were.
func (r *Runner) Reseal(ctx context.Context, current func(sealed string) bool, by Actor) (int, error) {
	total := 0
	for range MaxSchedules + maxRecords { // far more than it takes
		n, err := r.resealSome(ctx, current, by)
		if err != nil && !errors.Is(err, auth.ErrConflict) {
			return total, err
		}
		if err == nil && n == 0 {
			return total, nil
		}
		if err == nil {
			total += n
		}
	}
	return total, fmt.Errorf("changed by others again and again: %w", auth.ErrConflict)
}

func (r *Runner) resealSome(ctx context.Context, current func(string) bool, by Actor) (int, error) {
	var txn auth.Txn
	s, errSealer := r.cfg.Sealer()
	var errs error
	reseal := func(key string, held auth.Value, secret *string, encoded func() []byte) {
		if *secret == "" || current(*secret) || len(txn.Ops) == resealAtOnce || errs != nil {
			return
		}
		if errSealer != nil {
			errs = errors.Join(ErrUnsealed, errSealer)
			return
		}
		plain, err := s.Open(purpose, *secret)
		if err == nil {
			*secret, err = s.Seal(purpose, plain)
		}
		if err != nil {
			errs = fmt.Errorf("%s: %w", key, err)
			return
		}
		txn.Compares = append(txn.Compares, auth.Compare{Bucket: Bucket, Key: key, ModIndex: held.ModIndex})
		txn.Ops = append(txn.Ops, auth.Op{Bucket: Bucket, Key: key, Value: encoded()})
	}
	r.cfg.Meta.Scan(Bucket, prefixSchedule, func(key string, held auth.Value) bool {
		var v Schedule
		if json.Unmarshal(held.Data, &v) == nil {
			reseal(key, held, &v.Target.SecretKey, func() []byte { return encode(v) })
		}
		return true
	})
	r.cfg.Meta.Scan(Bucket, prefixRun, func(key string, held auth.Value) bool {
		var v Run
		if json.Unmarshal(held.Data, &v) == nil {
			reseal(key, held, &v.Target.SecretKey, func() []byte { return encode(v) })
		}
		return true
	})
	r.cfg.Meta.Scan(Bucket, prefixRepository, func(key string, held auth.Value) bool {
		var v repositoryRecord
		if json.Unmarshal(held.Data, &v) == nil {
			reseal(key, held, &v.Sealed, func() []byte { return encode(v) })
		}
		return true
	})
	n := len(txn.Ops)
	if errs != nil || n == 0 {
		return 0, errs
	}
	txn.Audit = []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "snapshot.target.reseal", Detail: encode(map[string]int{"records": n})}}
	_, err := r.cfg.Meta.Commit(ctx, txn)
	return n, err
}
