package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/repository"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
	"github.com/triward/triward/tsdb"
)

// Archive is the log behind a backup; *repository.Repository is one.
type Archive interface {
	// Replay calls fn with the entries behind from in order, up to through, or as far as they go when it is 0.
	Replay(ctx context.Context, from, through uint64, fn func(repository.Entry) error) error
}

// Until says where a replay of the archive ends. The zero value is as far as it goes.
type Until struct {
	Index uint64
	Time  int64 // log time in milliseconds: the last entry whose stamp is not after it
}

// OnlyConfig is RestoreOptions.Only for the metadata.
const OnlyConfig = "config"

// Kinds that RestoreOptions.Only can name.
var onlyKinds = []string{command.KindMetrics.String(), command.KindLogs.String(), command.KindEvents.String(), OnlyConfig}

func checkOnly(only string) error {
	if only != "" && !slices.Contains(onlyKinds, only) {
		return fmt.Errorf("restore only %.40q: want metrics, logs, events or config", only)
	}
	return nil
}

// newSinks makes stores for a state that nobody serves.
func newSinks(log *slog.Logger) func(*meta.Store) (raftstate.Sinks, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return func(state *meta.Store) (raftstate.Sinks, error) {
		metrics, err := tsdb.New(tsdb.Options{Dictionary: state, Logger: log})
		if err != nil {
			return raftstate.Sinks{}, err
		}
		logs, err := logstore.New(logstore.Options{Log: log, NoIndex: true})
		if err != nil {
			return raftstate.Sinks{}, errors.Join(err, metrics.Close())
		}
		return raftstate.Sinks{Metrics: metrics, Logs: logs}, nil
	}
}

// rework takes the state of the backup to where the restore is to end, and away what it is not to hold.
func rework(ctx context.Context, staged *raftstate.Restored, report *RestoreReport, opts *RestoreOptions) error {
	report.Only = opts.Only
	if opts.Archive != nil {
		opts.Phase("replay the archived log")
		if err := replay(ctx, staged, report, opts); err != nil {
			return err
		}
	}
	if opts.Only != "" {
		opts.Phase("take away what is not " + opts.Only)
		if err := keepOnly(ctx, staged, opts); err != nil {
			return err
		}
	}
	report.Index, report.LogTime, report.Digest = staged.About.Mark.Index, staged.About.LogTime, staged.Digest()
	report.State = staged.About.Sum
	return nil
}

func replay(ctx context.Context, staged *raftstate.Restored, report *RestoreReport, opts *RestoreOptions) error {
	from := staged.About.Mark.Index
	if opts.Until.Index > 0 && opts.Until.Index < from {
		return fmt.Errorf("restore to entry %d: the backup is of entry %d; name an older one, or the repository alone", opts.Until.Index, from)
	}
	if opts.Until.Time > 0 && opts.Until.Time < staged.About.LogTime {
		return fmt.Errorf("restore to log time %s: the backup is of %s; name an older one, or the repository alone",
			logTimeText(opts.Until.Time), logTimeText(staged.About.LogTime))
	}
	return staged.Rework(ctx, newSinks(opts.Log), opts.Log, func(w *raftstate.Rework) error {
		found := opts.Until.Time == 0
		last := w.LogTime()
		err := opts.Archive.Replay(ctx, from, opts.Until.Index, func(e repository.Entry) error {
			stamp, err := stampOf(&e)
			if err != nil {
				return err
			}
			if opts.Until.Time > 0 && stamp > opts.Until.Time {
				found = true
				return repository.ErrStop
			}
			last = max(last, stamp)
			return w.Apply(raftstate.ArchivedEntry{Index: e.Index, Term: e.Term, Type: e.Type, Data: e.Data})
		})
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("%w: it reaches to entry %d of log time %s, and whether more came before %s is not known; --latest restores what it holds",
				repository.ErrGap, w.Applied(), logTimeText(last), logTimeText(opts.Until.Time))
		}
		report.Replayed = w.Applied() - from
		return nil
	})
}

func logTimeText(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// stampOf returns the log time of an entry; 0 for those of raft's own.
func stampOf(e *repository.Entry) (int64, error) {
	if e.Type != 0 { // raft.LogCommand
		return 0, nil
	}
	entry, err := command.Decode(e.Data)
	if errors.Is(err, command.ErrEnvelope) {
		return 0, fmt.Errorf("%w: entry %d: %w", backup.ErrNewer, e.Index, err)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: entry %d: %w", backup.ErrContent, e.Index, err)
	}
	return entry.Stamp, nil
}

// keptBuckets are those of the metadata that stay when only data is restored: the audit log, which tells of everything
// before, and what the cluster's own keys belong to.
var keptBuckets = []string{audit.BucketRecords, audit.BucketHead, machine.BucketRetentionCuts, command.BucketSelectorCuts, bucketPKI, bucketSettings}

// keepOnly leaves one kind. Of the others the state is what it is after a cut of the retention above all they hold.
func keepOnly(ctx context.Context, staged *raftstate.Restored, opts *RestoreOptions) error {
	// Lines and events lie in one store: what is not kept of it is hidden below its floor and goes with its days.
	metrics := opts.Only == command.KindMetrics.String()
	lines := opts.Only == command.KindLogs.String() || opts.Only == command.KindEvents.String()
	emptied := make(map[command.Kind]bool)
	if !metrics {
		emptied[command.KindMetrics] = true
		if err := staged.Empty(snapshot.KindMetrics); err != nil {
			return err
		}
	}
	if !lines {
		emptied[command.KindLogs], emptied[command.KindEvents] = true, true
		if err := staged.Empty(snapshot.KindLogs); err != nil {
			return err
		}
	}
	about := staged.About
	return staged.Rework(ctx, newSinks(opts.Log), opts.Log, func(w *raftstate.Rework) error {
		return w.Edit(func(tx *meta.Tx) error {
			for _, kind := range command.Kinds {
				if kind.String() != opts.Only {
					tx.RaiseFloor(kind, aboveAll(&about, kind))
				}
				if emptied[kind] {
					tx.DropDigests(kind)
				}
			}
			if opts.Only == OnlyConfig {
				return nil
			}
			for bucket := range about.Keys {
				if slices.Contains(keptBuckets, bucket) {
					continue
				}
				for _, key := range tx.Keys(bucket) {
					tx.Delete(bucket, key)
				}
			}
			return nil
		})
	})
}

// aboveAll is a time in milliseconds of which nothing of the kind is held: nothing lies further ahead of log time than
// samples may, and then it is of the newest day.
func aboveAll(s *meta.Summary, kind command.Kind) int64 {
	newest := s.LogTime
	for _, d := range s.Digests {
		if d.Kind == kind {
			newest = max(newest, d.Day*day.Milliseconds())
		}
	}
	return newest + 1
}
