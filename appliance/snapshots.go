package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/repository"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
)

// snapshots makes backups of this node's state.
type snapshots struct {
	*schedule.Runner
	app  *App
	busy chan struct{} // one at a time: a cut holds the space of what the stores replace meanwhile
	// process tells this process from an earlier one of the same node in repositories.
	process string
}

func newSnapshots(a *App) *snapshots {
	s := &snapshots{app: a, busy: make(chan struct{}, 1), process: strings.ToLower(rand.Text()[:12])}
	s.Runner = schedule.New(schedule.Config{
		Meta: &metadata{app: a}, Node: a.cfg.NodeID, Incarnation: a.identity.Incarnation(), Folder: a.cfg.Backup.Dir,
		Leading: func() bool { _, self := a.node.Leader(); return self },
		Prepare: s.Prepare, Sealer: s.sealer, Log: a.part("snapshots"),
		Cluster: a.identity.ClusterID(), Recovery: s.recovery, DataDir: a.cfg.DataDir, Entries: s.entries, Oldest: s.oldest, Program: a.version,
		Format: func() uint32 { return a.node.State().Format() },
	})
	return s
}

// recovery is schedule.Config.Recovery.
func (s *snapshots) recovery() (string, error) {
	ring, err := keyring.Load(s.app.cfg.TLS.Dir)
	if err != nil {
		return "", err
	}
	return ring.Recovery(), nil
}

// entries is schedule.Config.Entries.
func (s *snapshots) entries(ctx context.Context, from uint64, maxBytes int64) ([]repository.Entry, uint64, uint64, error) {
	logs, first, committed, err := s.app.node.CommittedLog(ctx, from, maxBytes)
	out := make([]repository.Entry, 0, len(logs))
	for _, l := range logs {
		out = append(out, repository.Entry{Index: l.Index, Term: l.Term, Type: l.Type, Stamp: l.Stamp, Data: l.Data})
	}
	return out, first, committed, err
}

// oldest is schedule.Config.Oldest.
func (s *snapshots) oldest(ctx context.Context) (uint64, []string, error) {
	return s.app.node.OldestEntry(ctx)
}

// Folder implements api.Snapshots.
func (s *snapshots) Folder() string { return s.app.cfg.Backup.Dir }

// Recovery implements api.Snapshots.
func (s *snapshots) Recovery() string {
	ring, err := keyring.Load(s.app.cfg.TLS.Dir)
	if err != nil {
		return ""
	}
	return ring.Recovery()
}

// close waits until no backup is being made; the node's context must have ended.
func (s *snapshots) close(ctx context.Context) error {
	if err := s.Runner.Close(); err != nil {
		return err
	}
	select {
	case s.busy <- struct{}{}: // and no other begins
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errSnapshotRuns says that this node makes a backup already.
var errSnapshotRuns = problem.New(http.StatusConflict, "this node is making a backup already").
	WithHint("wait for it, or ask another node")

// snapshotCatchUp is how long a backup waits for this node to hold all that was committed. When there is no majority
// it is made of what there is: that may be all that is left.
const snapshotCatchUp = 5 * time.Second

// scheduleCatchUp is how long one that the cluster makes by itself waits: without a majority it would not count.
const scheduleCatchUp = 30 * time.Second

// Stream implements api.Snapshots.
func (s *snapshots) Stream(ctx context.Context, req api.SnapshotRequest, by schedule.Actor, begin func(api.SnapshotStart) io.Writer) error {
	ring, err := keyring.Load(s.app.cfg.TLS.Dir)
	if req.Recovery && err != nil {
		return problem.Wrap(http.StatusBadRequest, err).WithHint("name public keys in recipients instead")
	}
	recipients := req.Recipients
	if req.Recovery {
		recipients = append(slices.Clone(recipients), ring.Recovery())
	}
	to, err := backup.Recipients(recipients, req.Passphrase)
	if err != nil {
		return err
	}
	complete := s.note(ctx, by, len(to) > 0)
	p, err := s.prepare(to, req.Damaged)
	if err != nil {
		return refusedDamaged(err)
	}
	defer p.closeLogged()
	p.start.Complete = complete
	_, _, err = p.Write(ctx, begin(p.start), nil)
	return err
}

// refusedDamaged tells an operator what to do where the state is not whole.
func refusedDamaged(err error) error {
	var d *raftstate.DamagedError
	if !errors.As(err, &d) {
		return err
	}
	return problem.Wrap(http.StatusConflict, err).
		WithHint("ask another node, or wait until this one is mended; if it is all that is left: triward snapshot save FILE --damaged")
}

// note writes into the audit log that somebody takes a backup away, and reports whether this node then holds all that
// was committed. Without a majority there is no audit log, but a backup of what is left may be all that helps.
func (s *snapshots) note(ctx context.Context, by schedule.Actor, encrypted bool) bool {
	ctx, cancel := context.WithTimeout(ctx, snapshotCatchUp)
	defer cancel()
	detail := fmt.Sprintf(`{"encrypted":%t,"node":%q}`, encrypted, s.app.cfg.NodeID)
	_, err := s.app.commit(ctx, command.Txn{Audit: []command.AuditRecord{
		{Actor: by.Name, Address: by.Address, Action: "snapshot.download", Detail: []byte(detail)},
	}})
	if err != nil {
		s.app.log.Warn("a backup is made that could not be noted in the audit log", "by", by.Name, "address", by.Address, "err", err)
	}
	return err == nil
}

// Prepare is schedule.Config.Prepare.
func (s *snapshots) Prepare(ctx context.Context, p schedule.Protection) (schedule.Prepared, error) {
	keys := p.Recipients
	if p.Recovery {
		ring, err := keyring.Load(s.app.cfg.TLS.Dir)
		if err != nil {
			return nil, fmt.Errorf("encrypt for the recovery key: %w", err)
		}
		keys = append(slices.Clone(keys), ring.Recovery())
	}
	to, err := backup.Recipients(keys, "")
	if err != nil {
		return nil, err
	}
	if len(to) == 0 && !p.Plain {
		return nil, errors.New("nobody is named to encrypt the backup for")
	}
	// The claim was committed, so there is a majority: a backup that lacks what it acknowledged is not called good.
	if err := s.catchUp(ctx, scheduleCatchUp); err != nil {
		return nil, fmt.Errorf("this node does not hold yet what the cluster acknowledged: %w", err)
	}
	out, err := s.prepare(to, false)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// sealer is schedule.Config.Sealer.
func (s *snapshots) sealer() (schedule.Sealer, error) { return keyring.Load(s.app.cfg.TLS.Dir) }

// reseal seals the secret keys of targets anew.
func (s *snapshots) reseal(ctx context.Context, current func(string) bool, by schedule.Actor) (int, error) {
	return s.Runner.Reseal(ctx, current, by)
}

// prepared is a state that was cut, and how it is to be written.
type prepared struct {
	s      *snapshots
	export *raftstate.Export
	req    backup.Request
	start  api.SnapshotStart
	once   sync.Once
	err    error
}

// prepare cuts the state. It is refused while this node makes another backup.
func (s *snapshots) prepare(to []age.Recipient, damaged bool) (*prepared, error) {
	select {
	case s.busy <- struct{}{}:
	default:
		return nil, errSnapshotRuns
	}
	p, err := s.cut(to, damaged)
	if err != nil {
		<-s.busy
		return nil, err
	}
	return p, nil
}

func (s *snapshots) cut(to []age.Recipient, damaged bool) (_ *prepared, err error) {
	a := s.app
	p := &prepared{s: s, req: backup.Request{Recipients: to}}
	export := a.node.Export
	if damaged {
		export = a.node.ExportDamaged
	}
	if p.export, err = export(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.export.Close())
		}
	}()
	// The keys after the cut: the ring only grows, so it opens whatever the cut holds, also while a key is rotated.
	if p.req.Keys, err = keyFiles(a.cfg.TLS.Dir); err != nil {
		return nil, err
	}
	if ring, err := keyring.Load(a.cfg.TLS.Dir); err == nil {
		if p.req.Recovery, err = age.ParseX25519Recipient(ring.Recovery()); err != nil {
			return nil, fmt.Errorf("recovery key: %w", err)
		}
	}
	p.req.About = backup.About{
		Cluster: a.identity.ClusterID(), Node: a.cfg.NodeID, Program: a.version, Created: time.Now().UnixMilli(), State: p.export.About,
		Damage: p.export.Damage,
	}
	p.start = api.SnapshotStart{
		Cluster: p.req.About.Cluster, Node: a.cfg.NodeID, Index: p.export.About.Mark.Index, LogTime: p.export.About.LogTime,
		ImageBytes: p.export.Size(), Damage: p.export.Damage,
	}
	return p, nil
}

// Name implements schedule.Prepared.
func (p *prepared) Name() string { return p.start.FileName() }

// ImageBytes implements schedule.Prepared.
func (p *prepared) ImageBytes() int64 { return p.export.Size() }

// Write implements schedule.Prepared.
func (p *prepared) Write(ctx context.Context, w io.Writer, progress func(done, total int64)) (*backup.Manifest, int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.s.app.ctx, cancel)() // a node that stops makes no more of it
	p.req.Progress = progress
	began := time.Now()
	m, size, err := backup.Write(ctx, w, p.export, p.req)
	if err == nil {
		p.s.app.log.Info("backup made", "index", m.Index, "bytes", size, "image_bytes", p.export.Size(), "encrypted", len(p.req.Recipients) > 0, "took", time.Since(began))
	}
	return m, size, err
}

// SaveName implements schedule.Prepared.
func (p *prepared) SaveName(run string) string {
	return repository.SaveName(p.start.Index, p.start.LogTime, run)
}

// Save implements schedule.Prepared.
func (p *prepared) Save(
	ctx context.Context, in *repository.Repository, run string, cache *repository.Cache, progress func(done, total int64),
) (*backup.Manifest, string, repository.Stats, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.s.app.ctx, cancel)() // a node that stops makes no more of it
	began := time.Now()
	m, name, st, err := in.Save(ctx, p.export, repository.Request{
		About: p.req.About, Keys: p.req.Keys, Recovery: p.req.Recovery, Run: run, Process: p.s.process, Cache: cache,
		Log: p.s.app.part("snapshots"), Progress: progress,
	})
	if err == nil {
		p.s.app.log.Info("backup saved in a repository", "index", m.Index, "stored_bytes", st.Stored, "new_bytes", st.New, "read_bytes", st.Read,
			"image_bytes", p.export.Size(), "packs", st.Packs, "took", time.Since(began))
	}
	return m, name, st, err
}

// Close implements schedule.Prepared.
func (p *prepared) Close() error {
	p.once.Do(func() {
		p.err = p.export.Close()
		<-p.s.busy
	})
	return p.err
}

func (p *prepared) closeLogged() {
	if err := p.Close(); err != nil {
		p.s.app.log.Warn("remove what a backup was made of", "err", err)
	}
}

func (s *snapshots) catchUp(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	index, err := s.app.node.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return s.app.node.WaitApplied(ctx, index)
}

// keyFiles reads the private keys of the cluster that this node has: those of the CA and the ring that seals secrets.
func keyFiles(dir string) ([]backup.KeyFile, error) {
	var out []backup.KeyFile
	for _, name := range []string{pki.FileCA, pki.FileCAKey, keyring.File} {
		body, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read keys for the backup: %w", err)
		}
		out = append(out, backup.KeyFile{Name: name, Body: body})
	}
	return out, nil
}
