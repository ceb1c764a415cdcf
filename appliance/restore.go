package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/triward/triward/appliance/archive"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/keyring"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// ErrNotEmpty says that a restore was refused because the node has data already.
var ErrNotEmpty = errors.New("this node has data already")

// restoreMark lies in the data directory while a restore is under way. What else is there then belongs to it.
const restoreMark = "RESTORE"

// RestoreOptions say how a backup is restored.
type RestoreOptions struct {
	Identities []age.Identity // that may open it
	VerifyOnly bool           // check everything, leave nothing
	Deep       bool           // read every sample and line and hold them against the manifest
	Log        *slog.Logger   // nil: discards
	// Only keeps one kind: metrics, logs, events, or config for the metadata; "" keeps all.
	Only string
	// Archive is replayed behind the backup, when set, up to Until.
	Archive Archive
	Until   Until
	// Phase, when set, is told what begins.
	Phase func(name string)
}

// RestoreReport says what was restored.
type RestoreReport struct {
	*backup.Backup
	NewCA bool // the backup has no keys: agents must be enrolled again
	Pin   string
	// RecoveryKey of a ring that was made because the backup gave none: it must be shown once. Secrets that were sealed
	// with the ring of the lost cluster are lost.
	RecoveryKey string
	Warnings    []string
	Deep        *backup.DeepReport // with RestoreOptions.Deep
	// Of the state that the cluster begins with, which is that of the manifest unless more was asked for.
	Index    uint64
	LogTime  int64 // milliseconds since 1970
	Digest   string
	State    string // SHA-256 of its metadata, equal on all nodes that have applied just that entry
	Replayed uint64 // entries of the archive
	Only     string
}

// Restore makes a backup the state of this node, which must have none, as the only member of a
// cluster that goes on from there. Everything is read and checked before anything counts; when it fails the node is as
// it was. The configuration must be resolved.
func Restore(ctx context.Context, cfg Config, src backup.Source, opts RestoreOptions) (_ *RestoreReport, err error) {
	if opts.Phase == nil {
		opts.Phase = func(string) {}
	}
	if err := checkOnly(opts.Only); err != nil {
		return nil, err
	}
	release, err := claimEmpty(&cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil || opts.VerifyOnly {
			err = errors.Join(err, unclaim(&cfg))
		}
		err = errors.Join(err, release())
	}()
	opts.Phase("check and unpack")
	var staged *raftstate.Restored
	report := &RestoreReport{}
	report.Backup, err = src.Read(ctx, opts.Identities, func(h container.Header, image io.Reader) (err error) {
		if err := mayHold(&cfg, &h); err != nil {
			return err
		}
		staged, err = raftstate.RestoreImage(ctx, cfg.DataDir, image)
		return err
	})
	if err == nil {
		err = report.OpenKeys(opts.Identities)
	}
	if err != nil {
		return nil, imageError(err)
	}
	if !report.Manifest.MatchesState(&staged.About) {
		return nil, fmt.Errorf("%w: the metadata in the image is not that of the manifest", backup.ErrContent)
	}
	if opts.Deep {
		opts.Phase("read every sample and line")
		if report.Deep, err = backup.CheckStores(ctx, staged.MetricsDir(), staged.LogsDir(), report.Manifest, staged.About.Cuts, opts.Log); err != nil {
			return nil, err
		}
	}
	if err := rework(ctx, staged, report, &opts); err != nil {
		return nil, err
	}
	if opts.VerifyOnly {
		return report, nil
	}
	opts.Phase("put in place")
	report.Warnings = restoreWarnings(&cfg, report.Manifest)
	return report, found(&cfg, staged, report)
}

// imageError names what is wrong with an image as the errors of backups do.
func imageError(err error) error {
	switch {
	case errors.Is(err, snapshot.ErrNewer), errors.Is(err, meta.ErrVersion):
		return fmt.Errorf("%w: %w", backup.ErrNewer, err)
	case errors.Is(err, snapshot.ErrImage):
		return fmt.Errorf("%w: %w", backup.ErrContent, err)
	}
	return err
}

// found makes the staged state this node's own and gives it a certificate. The certificate comes last: without it no
// server starts.
func found(cfg *Config, staged *raftstate.Restored, report *RestoreReport) error {
	m := report.Manifest
	ca, err := restoredCA(report)
	if err != nil {
		return err
	}
	report.Pin = ca.Fingerprint()
	incarnation := pki.NewIncarnation()
	note := restoredFrom{
		Index: report.Index, Created: m.Created, Node: m.Node, Digest: report.Digest, Image: m.Image.SHA256, Incarnation: incarnation,
		Save: m.Index, Only: report.Only,
	}
	err = staged.Found(raftstate.Server{ID: cfg.NodeID, Addr: cfg.Listen.Peer.Advertise}, func(tx *meta.Tx) error {
		if report.NewCA { // with the keys the ring was lost that opens this one's
			tx.Delete(bucketPKI, keyAgentCAs)
		}
		if !report.hasRing() { // which key of the lost ring sealed
			tx.Delete(bucketSettings, keySealing)
		}
		return beginAnew(tx, note)
	})
	if err != nil {
		return err
	}
	if err := restoreRing(cfg, report); err != nil {
		return err
	}
	setup := Setup{ClusterID: m.Cluster, Restored: &note}
	if err := setup.Write(cfg.DataDir); err != nil {
		return err
	}
	if err := cfg.IssueIdentity(ca.InIncarnation(incarnation)); err != nil {
		return err
	}
	return os.Remove(filepath.Join(cfg.DataDir, restoreMark))
}

// restoredCA is the CA of the backup, or a new one for the same cluster.
func restoredCA(report *RestoreReport) (*pki.CA, error) {
	var cert, key []byte
	for _, k := range report.Keys {
		switch k.Name {
		case pki.FileCA:
			cert = k.Body
		case pki.FileCAKey:
			key = k.Body
		}
	}
	if key == nil {
		report.NewCA = true
		return pki.NewCA(report.Manifest.Cluster, time.Now())
	}
	ca, err := pki.ParseCA(cert, key)
	if err != nil {
		return nil, fmt.Errorf("keys in the backup: %w", err)
	}
	return ca, nil
}

// hasRing reports whether the backup gave its key ring.
func (r *RestoreReport) hasRing() bool {
	return slices.ContainsFunc(r.Keys, func(k backup.KeyFile) bool { return k.Name == keyring.File })
}

// restoreRing puts the key ring of the backup in place, with which the secrets in the metadata are sealed, or a new one.
func restoreRing(cfg *Config, report *RestoreReport) error {
	for _, k := range report.Keys {
		if k.Name != keyring.File {
			continue
		}
		if err := os.MkdirAll(cfg.TLS.Dir, 0o700); err != nil {
			return fmt.Errorf("make TLS directory: %w", err)
		}
		return pki.WriteSecret(filepath.Join(cfg.TLS.Dir, keyring.File), k.Body)
	}
	ring, recovery, err := keyring.New()
	if err != nil {
		return err
	}
	report.RecoveryKey = recovery
	return ring.Save(cfg.TLS.Dir)
}

// restoredFrom is what a restored cluster remembers of it.
type restoredFrom struct {
	Index       uint64 `json:"index"`
	Created     int64  `json:"created"` // of the backup, milliseconds since 1970
	Node        string `json:"node"`
	Digest      string `json:"digest"`
	Image       string `json:"image_sha256"`
	Incarnation string `json:"incarnation"`
	Save        uint64 `json:"save,omitempty"` // entry of the backup; the archived log reached to Index
	Only        string `json:"only,omitempty"` // the kind that was kept
}

// endsWithRestore are the buckets whose records were about nodes, sessions and invitations of the lost cluster.
var endsWithRestore = []string{bucketNodes, bucketMembership, auth.BucketSessions, auth.BucketTickets, auth.BucketTokens, auth.BucketInvites}

// beginAnew edits the metadata of a backup for the cluster that begins with it.
func beginAnew(tx *meta.Tx, note restoredFrom) error {
	for _, bucket := range endsWithRestore {
		for _, key := range tx.Keys(bucket) {
			tx.Delete(bucket, key)
		}
	}
	for _, key := range tx.Keys(auth.BucketAPITokens) {
		var t auth.APIToken
		if v, _ := tx.Get(auth.BucketAPITokens, key); json.Unmarshal(v.Data, &t) == nil && t.Node != "" {
			tx.Delete(auth.BucketAPITokens, key) // of the command line on a node that was lost
		}
	}
	edit := func(bucket string, pause func(keys []string, value func(string) []byte, edit func(string, []byte))) {
		pause(tx.Keys(bucket), func(key string) []byte { v, _ := tx.Get(bucket, key); return v.Data }, func(key string, value []byte) {
			if value == nil {
				tx.Delete(bucket, key)
				return
			}
			tx.Put(bucket, key, value, 0)
		})
	}
	edit(schedule.Bucket, schedule.PauseAll)
	edit(archive.Bucket, archive.Pause)
	body, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("encode note of the restore: %w", err)
	}
	tx.Put(bucketSettings, "restored", body, 0)
	return nil
}

// mayHold refuses a backup that this program or this disk cannot take, before anything is written.
func mayHold(cfg *Config, h *container.Header) error {
	if h.Format > machine.Format {
		return fmt.Errorf("%w: its format is %d, this program knows %d", backup.ErrNewer, h.Format, machine.Format)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(cfg.DataDir, &st); err != nil {
		return fmt.Errorf("look for room in %s: %w", cfg.DataDir, err)
	}
	// With tsdb or logs on file systems of their own this asks for more than is needed of this one, but never for less
	// of all together.
	if free := int64(st.Bavail) * st.Bsize; free < h.ImageBytes && !mounted(cfg.DataDir) {
		return fmt.Errorf("the backup unpacks to %s, %s has %s free", Size(h.ImageBytes), cfg.DataDir, Size(free))
	}
	return nil
}

// mounted reports whether a store lies on a file system of its own.
func mounted(dataDir string) bool {
	var root unix.Stat_t
	if unix.Stat(dataDir, &root) != nil {
		return false
	}
	for _, name := range storeDirs {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dataDir, name), &st) == nil && st.Dev != root.Dev {
			return true
		}
	}
	return false
}

// storeDirs are the folders of a data directory that a restore fills. An operator may have made them, as places to
// mount something, but they must be empty.
var storeDirs = []string{"raft", "meta", "tsdb", "logs"}

// claimEmpty takes the data directory for a restore when it and the TLS directory hold no node. What an interrupted
// restore left is removed.
func claimEmpty(cfg *Config) (release func() error, err error) {
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unlock())
		}
	}()
	// The certificate is the last that a restore writes: with it the directory holds a node, whatever the mark says.
	if _, err := os.Lstat(filepath.Join(cfg.TLS.Dir, pki.FileCert)); err == nil {
		return nil, fmt.Errorf("%w: %s holds its certificate", ErrNotEmpty, cfg.TLS.Dir)
	}
	if _, err := os.Lstat(filepath.Join(cfg.DataDir, restoreMark)); err == nil {
		if err := unclaim(cfg); err != nil {
			return nil, fmt.Errorf("remove what an interrupted restore left: %w", err)
		}
	}
	if found, err := firstEntry(cfg); err != nil {
		return nil, err
	} else if found != "" {
		return nil, fmt.Errorf("%w: %s", ErrNotEmpty, found)
	}
	if err := pki.WriteSecret(filepath.Join(cfg.DataDir, restoreMark), []byte("a restore is under way\n")); err != nil {
		return nil, err
	}
	return unlock, nil
}

// firstEntry returns something in the data directory that makes it no empty one.
func firstEntry(cfg *Config) (string, error) {
	entries, err := os.ReadDir(cfg.DataDir)
	if err != nil {
		return "", fmt.Errorf("look into data directory: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(cfg.DataDir, e.Name())
		switch {
		case e.Name() == "LOCK", e.Name() == "lost+found":
			continue
		case e.IsDir() && (slices.Contains(storeDirs, e.Name()) || path == cfg.TLS.Dir):
			below, err := os.ReadDir(path)
			if err != nil {
				return "", fmt.Errorf("look into data directory: %w", err)
			}
			if i := slices.IndexFunc(below, func(e os.DirEntry) bool { return e.Name() != "lost+found" }); i >= 0 {
				return filepath.Join(path, below[i].Name()), nil
			}
			continue
		}
		return path, nil
	}
	return "", nil
}

// unclaim removes everything that a restore has written. It must only be called while its mark says that all there is
// belongs to it, and ends with the mark.
func unclaim(cfg *Config) error {
	var errs []error
	for _, name := range []string{pki.FileCert, pki.FileCAKey, pki.FileCA, keyring.File} {
		errs = append(errs, removeFile(filepath.Join(cfg.TLS.Dir, name)))
	}
	// The state in use first, so that nothing is taken for one when this is interrupted too.
	errs = append(errs, removeFile(filepath.Join(cfg.DataDir, "meta", "CURRENT")), removeFile(filepath.Join(cfg.DataDir, setupFile)))
	for _, name := range storeDirs {
		entries, err := os.ReadDir(filepath.Join(cfg.DataDir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if e.Name() != "lost+found" {
				errs = append(errs, os.RemoveAll(filepath.Join(cfg.DataDir, name, e.Name())))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return removeFile(filepath.Join(cfg.DataDir, restoreMark))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// restoreWarnings says what an operator should know before the node is started.
func restoreWarnings(cfg *Config, m *backup.Manifest) []string {
	var out []string
	if n := len(m.Damage); n > 0 {
		out = append(out, fmt.Sprintf("the backup was made of a state that node %s knew not to be whole: %s (of %d places); an older one may have what is lost in it",
			m.Node, m.Damage[0], n))
	}
	age := time.Since(time.UnixMilli(m.LogTime))
	for _, k := range []struct {
		kind string
		keep Duration
	}{{"metrics", cfg.Metrics.Retention}, {"logs", cfg.Logs.Retention}} {
		oldest := int64(-1)
		for _, d := range m.Digests {
			if d.Kind == k.kind && (oldest < 0 || d.Day < oldest) {
				oldest = d.Day
			}
		}
		if oldest >= 0 && time.Since(time.UnixMilli(oldest*day.Milliseconds())) > time.Duration(k.keep) {
			out = append(out, fmt.Sprintf("the backup is %s old: minutes after the start retention removes %s older than %s; raise %s.retention first to keep them",
				age.Round(time.Hour), k.kind, k.keep, k.kind))
		}
	}
	return out
}
