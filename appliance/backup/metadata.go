package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// WithMetadata unpacks a backup, checks that it is whole and its metadata that of the manifest, and calls look with the
// metadata, which must not be used after that. What it unpacks is removed. Of o it takes Identities, Stage and Phase.
func WithMetadata(ctx context.Context, src Source, o VerifyOptions, look func(*Manifest, *meta.Store) error) (err error) {
	if o.Phase == nil {
		o.Phase = func(string) {}
	}
	dir, err := os.MkdirTemp(o.Stage, "triward-verify-")
	if err != nil {
		return fmt.Errorf("make a folder to unpack in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	layout := snapshot.NewLayout(dir)
	generation, err := layout.Next()
	if err != nil {
		return err
	}
	dirs := make(map[string]string)
	for _, kind := range []string{snapshot.KindMetrics, snapshot.KindLogs, snapshot.KindMeta} {
		dirs[kind] = layout.Dir(kind, generation)
	}
	o.Phase("checking and unpacking")
	b, err := src.Read(ctx, o.Identities, func(_ container.Header, image io.Reader) error {
		_, err := snapshot.Unpack(ctx, image, dirs, machine.Format)
		return err
	})
	if err != nil {
		return err
	}
	o.Phase("checking metadata")
	path := filepath.Join(dirs[snapshot.KindMeta], filepath.Base(layout.MetaFile(generation)))
	state, err := meta.Summarize(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	if !b.Manifest.MatchesState(&state) {
		return fmt.Errorf("%w: the metadata in the image is not that of the manifest", ErrContent)
	}
	store, err := meta.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return look(b.Manifest, store)
}
