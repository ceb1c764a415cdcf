package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/appliance/problem"
)

// snapshots makes backups of this node's state.
type snapshots struct {
	app  *App
	busy chan struct{} // one at a time: a cut holds the space of what the stores replace meanwhile
}

func newSnapshots(a *App) *snapshots { return &snapshots{app: a, busy: make(chan struct{}, 1)} }

// close waits until no backup is being made; the node's context must have ended.
func (s *snapshots) close(ctx context.Context) error {
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

// Stream implements api.Snapshots.
func (s *snapshots) Stream(ctx context.Context, req api.SnapshotRequest, begin func(api.SnapshotStart) io.Writer) error {
	_, err := s.write(ctx, req.Recipients, req.Passphrase, nil, func(start api.SnapshotStart) (io.Writer, error) {
		return begin(start), nil
	})
	return err
}

// write makes a backup; begin is called once the state is cut and says where it goes.
func (s *snapshots) write(
	ctx context.Context, recipients []string, passphrase string, progress func(done, total int64),
	begin func(api.SnapshotStart) (io.Writer, error),
) (*backup.Manifest, error) {
	to, err := backup.Recipients(recipients, passphrase)
	if err != nil {
		return nil, problem.Wrap(http.StatusBadRequest, err)
	}
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		return nil, errSnapshotRuns
	}
	a := s.app
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)() // a node that stops makes no more of it
	complete := s.catchUp(ctx) == nil
	req := backup.Request{Recipients: to, Progress: progress}
	if len(to) > 0 {
		if req.Keys, err = keyFiles(a.cfg.TLS.Dir); err != nil {
			return nil, err
		}
	}
	export, err := a.node.Export()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := export.Close(); err != nil {
			a.log.Warn("remove what a backup was made of", "err", err)
		}
	}()
	req.About = backup.About{
		Cluster: a.identity.ClusterID(), Node: a.cfg.NodeID, Program: a.version, Created: time.Now().UnixMilli(), State: export.About,
	}
	w, err := begin(api.SnapshotStart{
		Cluster: req.About.Cluster, Node: req.About.Node, Index: export.About.Mark.Index, LogTime: export.About.LogTime,
		ImageBytes: export.Size(), Encrypted: len(to) > 0, Keys: len(req.Keys) > 0, Complete: complete,
	})
	if err != nil {
		return nil, err
	}
	began := time.Now()
	m, size, err := backup.Write(ctx, w, export, req)
	if err != nil {
		return nil, err
	}
	a.log.Info("backup made", "index", m.Index, "bytes", size, "image_bytes", export.Size(), "encrypted", len(to) > 0, "took", time.Since(began))
	return m, nil
}

func (s *snapshots) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotCatchUp)
	defer cancel()
	index, err := s.app.node.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return s.app.node.WaitApplied(ctx, index)
}

// keyFiles reads the private keys of the cluster that this node has.
func keyFiles(dir string) ([]backup.KeyFile, error) {
	var out []backup.KeyFile
	for _, name := range []string{pki.FileCA, pki.FileCAKey} {
		body, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // a node without the CA's key
		}
		if err != nil {
			return nil, fmt.Errorf("read keys for the backup: %w", err)
		}
		out = append(out, backup.KeyFile{Name: name, Body: body})
	}
	return out, nil
}
