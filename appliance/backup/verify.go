package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// VerifyOptions say how a backup is checked.
type VerifyOptions struct {
	Identities []age.Identity
	Quick      bool              // check the files and do not read what is in them
	Stage      string            // folder to unpack in; "" for the system's
	Log        *slog.Logger      // of the stores; nil: discards
	Phase      func(name string) // when set, is told what begins
	// Throttle, when set, is told of bytes of the image as they come, and may wait; its error ends the work.
	Throttle func(n int) error
}

// Verify checks a backup that is a file; see VerifySource.
func Verify(ctx context.Context, r io.Reader, o VerifyOptions) (_ *Backup, deep *DeepReport, err error) {
	return VerifySource(ctx, Stream(r), o)
}

// throttled passes a stream on at the pace of a function.
type throttled struct {
	r    io.Reader
	pace func(n int) error
}

// Read implements io.Reader.
func (t *throttled) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	if n > 0 && err == nil {
		err = t.pace(n)
	}
	return n, err
}

// VerifySource checks a backup without restoring it: its form, every file, and unless Quick every record of metadata,
// sample and line against the manifest. What it unpacks is removed. deep is nil with Quick.
func VerifySource(ctx context.Context, src Source, o VerifyOptions) (_ *Backup, deep *DeepReport, err error) {
	if o.Phase == nil {
		o.Phase = func(string) {}
	}
	if o.Quick {
		b, err := src.Read(ctx, o.Identities, func(_ container.Header, image io.Reader) error {
			_, err := io.Copy(io.Discard, o.paced(image))
			return err
		})
		return b, nil, err
	}
	dir, err := os.MkdirTemp(o.Stage, "triward-verify-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder to unpack in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	layout := snapshot.NewLayout(dir)
	generation, err := layout.Next()
	if err != nil {
		return nil, nil, err
	}
	dirs := make(map[string]string)
	for _, kind := range []string{snapshot.KindMetrics, snapshot.KindLogs, snapshot.KindMeta} {
		dirs[kind] = layout.Dir(kind, generation)
	}
	o.Phase("checking and unpacking")
	b, err := src.Read(ctx, o.Identities, func(_ container.Header, image io.Reader) error {
		_, err := snapshot.Unpack(ctx, o.paced(image), dirs, machine.Format)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	o.Phase("checking metadata")
	state, err := meta.Summarize(filepath.Join(dirs[snapshot.KindMeta], filepath.Base(layout.MetaFile(generation))))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrContent, err)
	}
	if !b.Manifest.MatchesState(&state) {
		return nil, nil, fmt.Errorf("%w: the metadata in the image is not that of the manifest", ErrContent)
	}
	o.Phase("reading every sample and line")
	deep, err = CheckStores(ctx, dirs[snapshot.KindMetrics], dirs[snapshot.KindLogs], b.Manifest, state.Cuts, o.Log)
	return b, deep, err
}

// paced makes a stream come no faster than wanted.
func (o *VerifyOptions) paced(r io.Reader) io.Reader {
	if o.Throttle == nil {
		return r
	}
	return &throttled{r, o.Throttle}
}
