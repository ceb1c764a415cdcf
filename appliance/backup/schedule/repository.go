package schedule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/repository"
	"github.com/triward/triward/appliance/backup/target"
)

// prefixRepository begins the keys of what is known of repositories.
const prefixRepository = "repository/"

// maxRepositories bounds how many are remembered. A new one begins when the readers of a schedule change, and after a
// restore of the cluster.
const maxRepositories = 64

// repositoryRecord is what every node must know of a repository to write into it.
type repositoryRecord struct {
	ID string `json:"id"`
	// Sealed is the secret of an encrypted repository, sealed by the key ring. Hash is that of another, which protects
	// nothing.
	Sealed  string `json:"sealed,omitempty"`
	Hash    []byte `json:"hash,omitempty"`
	Created int64  `json:"created"` // log time, milliseconds
}

// scope says which repository a job writes into.
func (r *Runner) scope(j *Job) (repository.Scope, error) {
	s := repository.Scope{Cluster: r.cfg.Cluster, Incarnation: r.cfg.Incarnation}
	if j.Plain {
		return s, nil
	}
	s.Recipients, s.Drill = slices.Clone(j.Recipients), j.Drill > 0
	if j.Recovery {
		key, err := r.cfg.Recovery()
		if err != nil {
			return s, fmt.Errorf("encrypt for the recovery key: %w", err)
		}
		s.Recipients = append(s.Recipients, key)
	}
	return s, nil
}

// secret returns the secret of a repository, which the first who asks makes.
func (r *Runner) secret(ctx context.Context, s *repository.Scope) (*repository.Secret, error) {
	key := prefixRepository + s.ID()
	for range casRetries {
		held, mod, ok := get[repositoryRecord](r.cfg.Meta, key)
		if ok {
			return r.openSecret(&held)
		}
		fresh, err := repository.NewSecret(len(s.Recipients) > 0)
		if err != nil {
			return nil, err
		}
		rec := repositoryRecord{ID: s.ID(), Created: r.cfg.Meta.LogTime()}
		if len(s.Recipients) == 0 {
			rec.Hash = fresh.Hash
		} else {
			ring, err := r.cfg.Sealer()
			if err != nil {
				return nil, errors.Join(ErrUnsealed, err)
			}
			if rec.Sealed, err = ring.Seal(purpose, encode(fresh)); err != nil {
				return nil, err
			}
		}
		txn := auth.Txn{
			Compares: []auth.Compare{{Bucket: Bucket, Key: key, ModIndex: mod}},
			Ops:      append(r.forgetRepositories(), auth.Op{Bucket: Bucket, Key: key, Value: encode(rec)}),
		}
		if _, err := r.cfg.Meta.Commit(ctx, txn); err != nil && !errors.Is(err, auth.ErrConflict) {
			return nil, fmt.Errorf("store the secret of a repository: %w", err)
		}
	}
	return nil, auth.ErrConflict
}

func (r *Runner) openSecret(rec *repositoryRecord) (*repository.Secret, error) {
	if rec.Sealed == "" {
		return &repository.Secret{Hash: rec.Hash}, nil
	}
	ring, err := r.cfg.Sealer()
	if err != nil {
		return nil, fmt.Errorf("open the secret of the repository: %w", err)
	}
	plain, err := ring.Open(purpose, rec.Sealed)
	if err != nil {
		return nil, fmt.Errorf("open the secret of the repository: %w", err)
	}
	s := new(repository.Secret)
	if err := json.Unmarshal(plain, s); err != nil {
		return nil, fmt.Errorf("open the secret of the repository: %w", err)
	}
	return s, nil
}

// forgetRepositories makes room for one more record: the oldest goes that no backup lies in.
func (r *Runner) forgetRepositories() []auth.Op {
	all := list[repositoryRecord](r.cfg.Meta, prefixRepository, 2*maxRepositories)
	if len(all) < maxRepositories {
		return nil
	}
	used := make(map[string]bool)
	for _, run := range list[Run](r.cfg.Meta, prefixRun, maxRecords) {
		id := strings.TrimPrefix(run.Repository, repository.FolderPrefix)
		used[id] = used[id] || !run.Removed
	}
	slices.SortFunc(all, func(a, b repositoryRecord) int { return cmp.Compare(a.Created, b.Created) })
	for _, rec := range all {
		if !used[rec.ID] {
			return []auth.Op{{Delete: true, Bucket: Bucket, Key: prefixRepository + rec.ID}}
		}
	}
	return nil
}

// repository opens the repository of a job in its target for writing.
func (r *Runner) repository(ctx context.Context, j *Job, to target.Target) (*repository.Repository, string, error) {
	scope, err := r.scope(j)
	if err != nil {
		return nil, "", err
	}
	secret, err := r.secret(ctx, &scope)
	if err != nil {
		return nil, "", err
	}
	repo, err := repository.Open(ctx, to.Below(scope.Folder()), &scope, secret)
	return repo, scope.Folder(), err
}

// storeInRepository saves what was prepared into the repository of the job.
func (r *Runner) storeInRepository(ctx context.Context, h *hold, j *Job, run Run, to target.Target, p Prepared) (Run, error) {
	repo, folder, err := r.repository(ctx, j, to)
	if err != nil {
		return run, err
	}
	run.Repository, run.ImageBytes, run.Name = folder, p.ImageBytes(), p.SaveName(run.ID)
	// From here on something may lie there: should this node go down, the record says what.
	if err := r.note(ctx, &run); err != nil {
		return run, fmt.Errorf("record the backup: %w", err)
	}
	h.atRepository(folder)
	defer r.sweepLater(&run)
	h.enter("writing")
	m, name, st, err := p.Save(ctx, repo, run.ID, r.cache(folder), h.progress)
	run.Stored, run.Bytes = st.Stored, st.Total
	if err != nil {
		return run, err
	}
	run.Name, run.Index, run.Digest = name, m.Index, m.Digest
	h.enter("reading back")
	head, err := repo.ReadBack(ctx, name, &st)
	if err == nil && head.Index != run.Index {
		err = fmt.Errorf("entry %d is there, %d was stored", head.Index, run.Index)
	}
	if err == nil {
		// A claim that was lost meanwhile is another's: this backup counts only while it is ours.
		if held, _, ok := r.claims.Held(); !ok || held.ID != run.ID {
			err = errLost
		}
	}
	if err != nil {
		return run, fmt.Errorf("read back: %w", err)
	}
	run.Encryption, run.Keys = head.Encryption, head.Keys
	run.OK, run.ReadBack = true, true
	return run, nil
}

// cache is what is known of files of this node for a repository.
func (r *Runner) cache(folder string) *repository.Cache {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.caches[folder]
	if c == nil {
		file := ""
		if r.cfg.DataDir != "" {
			file = repository.CacheFile(r.cfg.DataDir, folder)
		}
		c = repository.OpenCache(file)
		r.caches[folder] = c
	}
	return c
}

// dropSave removes a save; what only it needed goes with the next sweep.
func (r *Runner) dropSave(ctx context.Context, to target.Target, run *Run) error {
	repo, err := repository.Look(ctx, to.Below(run.Repository), nil)
	if err != nil && !errors.Is(err, repository.ErrNotRepository) {
		return err
	}
	r.sweepLater(run)
	if err != nil {
		return nil // it is gone as a whole
	}
	return repo.Remove(ctx, run.Name)
}

// sweepLater notes that something may be in a repository that nothing needs.
func (r *Runner) sweepLater(run *Run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweeps[run.Target.String()+" "+run.Repository] = &sweeping{run: run}
}

// sweeping is a repository to be swept, with a run that names the place.
type sweeping struct {
	run  *Run
	next time.Time // not before
}

// sweepAgain is when one is swept again in which somebody is at work, or that could not be swept.
const sweepAgain = 10 * time.Minute

// sweepAll removes what nothing needs from the repositories that were noted.
func (r *Runner) sweepAll(ctx context.Context) {
	r.mu.Lock()
	var todo []string
	for key := range r.sweeps {
		todo = append(todo, key)
	}
	r.mu.Unlock()
	slices.Sort(todo)
	for _, key := range todo {
		r.mu.Lock()
		s := r.sweeps[key]
		r.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if time.Now().Before(s.next) {
			continue
		}
		run := s.run
		done, again, err := r.sweep(ctx, run)
		if err != nil {
			r.cfg.Log.Warn("a repository is not tidied up", "repository", run.Repository, "in", run.Target.String(), "err", err)
		}
		r.mu.Lock()
		s.next = time.Now().Add(again)
		if done && r.sweeps[key] == s { // nothing was added meanwhile
			delete(r.sweeps, key)
		}
		r.mu.Unlock()
	}
}

func (r *Runner) sweep(ctx context.Context, run *Run) (done bool, again time.Duration, err error) {
	if c, _, ok := r.claims.Held(); ok && c.Repository == run.Repository {
		return false, 0, nil
	}
	to, err := r.target(&run.Target)
	if err != nil {
		return true, 0, err
	}
	repo, err := repository.Look(ctx, to.Below(run.Repository), nil)
	if errors.Is(err, repository.ErrNotRepository) {
		return true, 0, nil
	}
	if err != nil {
		return false, sweepAgain, err
	}
	s, err := repo.Sweep(ctx, r.now())
	if s.Packs+s.Segments > 0 {
		r.cfg.Log.Info("repository tidied up", "repository", run.Repository, "in", run.Target.String(), "packs", s.Packs, "segments", s.Segments, "bytes", s.Bytes)
	}
	return err == nil && !s.Busy, sweepAgain, err
}

// atRepository makes the claim say where its backup goes.
func (h *hold) atRepository(folder string) {
	h.held.Change(func(c *Claim) { c.Repository = folder })
}
