package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/repository"
	"github.com/triward/triward/appliance/claim"
)

// EntrySource reads committed entries of the log from the index from on, at most so many bytes but at least one entry
// when there is one; those that this node does not hold from another member. first is where the log begins on this node,
// committed its last committed entry. from below first gives none when no member that answers holds it.
type EntrySource func(ctx context.Context, from uint64, maxBytes int64) (entries []repository.Entry, first, committed uint64, err error)

// OldestSource returns the first entry that any member which answers holds, and the members that do not answer.
type OldestSource func(ctx context.Context) (first uint64, silent []string, err error)

const (
	prefixArchive = "archive/"
	prefixGap     = "gap/"
	maxGaps       = 64
	segmentBytes  = 16 << 20 // of entries, after which a segment is closed
	archiveLook   = time.Second
	archiveNote   = 30 * time.Second // how often the record of an archive that goes on is written
	archiveLimit  = 10 * time.Minute // for one turn
)

// Archive says how far the log is archived. Where it stands is found out from the place itself; this record is to be
// shown.
type Archive struct {
	Schedule   string `json:"schedule"`
	Node       string `json:"node"` // that archives
	Repository string `json:"repository"`
	Index      uint64 `json:"index"`           // the last entry that the place holds durably
	LogTime    int64  `json:"log_time"`        // of that entry, milliseconds
	At         int64  `json:"at"`              // log time of this record
	Error      string `json:"error,omitempty"` // why it does not go on
	// Gap is set while entries are missing between what is archived and what the logs still hold: nothing is archived
	// until the next backup, which is made at once.
	Gap *Gap `json:"gap,omitempty"`
	// Behind is by how many milliseconds of log time the archive is behind: what would be lost if all nodes were lost.
	Behind int64 `json:"behind_ms"`
}

// Gap names entries of the log that no archive has.
type Gap struct {
	Schedule string `json:"schedule"`
	Node     string `json:"node"`
	From     uint64 `json:"from"`
	To       uint64 `json:"to"`
	At       int64  `json:"at"` // log time, milliseconds
}

// archiving is what this node knows of an archive that it writes. It is found out anew whenever something went wrong.
type archiving struct {
	repo    *repository.Repository
	folder  string
	where   Where
	ready   bool      // pos is what the place holds
	same    bool      // the entry there is the one of this cluster
	ahead   time.Time // since when the place holds more than the cluster has
	pos     uint64    // the last entry archived, or that a backup holds
	logTime int64
	next    time.Time
	noted   time.Time
	told    Archive
}

// archiveLog archives the log for the schedules whose turn is this node's, until ctx ends.
func (r *Runner) archiveLog(ctx context.Context) {
	if r.cfg.Entries == nil {
		return
	}
	tick := time.NewTicker(archiveLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		mine := make(map[string]bool)
		for _, s := range list[Schedule](r.cfg.Meta, prefixSchedule, MaxSchedules) {
			if s.Archive == 0 || !s.Enabled || s.Paused != "" || !r.mine(s.Node) {
				continue
			}
			mine[s.Name] = true
			r.archiveTurn(ctx, &s)
		}
		for name := range r.archive { // this goroutine's own
			if !mine[name] {
				delete(r.archive, name) // another may write there now: later we look again
				r.want(name, nil)
			}
		}
	}
}

// archiveTurn archives what is new for a schedule, when it is time.
func (r *Runner) archiveTurn(ctx context.Context, s *Schedule) {
	a := r.archive[s.Name]
	if a == nil {
		a = &archiving{}
		r.archive[s.Name] = a
	}
	if time.Now().Before(a.next) {
		return
	}
	a.next = time.Now().Add(time.Duration(s.Archive) * time.Second)
	work, cancel := context.WithTimeout(ctx, archiveLimit)
	defer cancel()
	gap, err := r.archiveOn(work, s, a)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.ready, a.repo = false, nil
		if errors.Is(err, errNothingYet) {
			err = fmt.Errorf("%w: the archive begins with the next backup of the schedule, which is made at once", err)
		}
		if a.told.Error == "" {
			r.cfg.Log.Warn("the log is not archived", "schedule", s.Name, "to", s.Target.String(), "err", err)
		}
	}
	now := Archive{Schedule: s.Name, Node: r.cfg.Node, Repository: a.folder, Index: a.pos, LogTime: a.logTime, Gap: gap}
	if err != nil {
		now.Error = clip(err.Error())
		if now.Index == 0 { // nothing was found out: what was known stays shown
			now.Index, now.LogTime = a.told.Index, a.told.LogTime
		}
	}
	r.noteArchive(ctx, a, now)
}

// archiveOn finds out where the archive stands and writes what follows.
func (r *Runner) archiveOn(ctx context.Context, s *Schedule, a *archiving) (*Gap, error) {
	scope, err := r.scope(&s.Job)
	if err != nil {
		return nil, err
	}
	if a.repo != nil && a.folder == scope.Folder() && a.where == s.Target {
		return r.archiveTo(ctx, s, a)
	}
	fresh := &archiving{next: a.next, ahead: a.ahead, noted: a.noted, told: a.told, where: s.Target}
	to, err := r.target(&s.Target)
	if err != nil {
		return nil, err
	}
	if fresh.repo, fresh.folder, err = r.repository(ctx, &s.Job, to); err != nil {
		return nil, err
	}
	gap, err := r.archiveTo(ctx, s, fresh)
	if errors.Is(err, errNothingYet) && a.repo != nil {
		// Its readers or its place were changed: until there is a backup in the new one, which is made now, the old one
		// goes on.
		return r.archiveTo(ctx, s, a)
	}
	*a = *fresh
	return gap, err
}

// archiveTo is archiveOn for a repository that is open.
func (r *Runner) archiveTo(ctx context.Context, s *Schedule, a *archiving) (*Gap, error) {
	_, first, committed, err := r.cfg.Entries(ctx, 0, 0)
	if err != nil {
		return nil, err
	}
	scope, err := r.scope(&s.Job)
	if err != nil {
		return nil, err
	}
	current := scope.Folder() == a.folder && a.where == s.Target // for an old place nothing is wanted
	if a.ready && a.pos+1 < first {
		a.ready = false
	}
	if !a.ready {
		gap, err := r.resume(ctx, s, a, first)
		switch {
		case errors.Is(err, errNothingYet) && current:
			r.want(s.Name, &wanted{folder: a.folder, at: r.cfg.Meta.LogTime()})
		case gap != nil && current:
			r.want(s.Name, &wanted{folder: a.folder, at: gap.At, index: gap.To})
		}
		if gap != nil || err != nil {
			return gap, err
		}
	}
	if err := r.sameHistory(ctx, a, committed); err != nil {
		return nil, err
	}
	for a.same && a.pos < committed {
		if err := r.archiveSegment(ctx, a, committed); err != nil {
			return nil, err
		}
	}
	if current {
		r.want(s.Name, nil)
	}
	return nil, nil
}

// aheadFor is how long the place may hold more than this node knows to be committed: one that starts learns it soon.
const aheadFor = 2 * time.Minute

// sameHistory makes sure that what the place holds is of this cluster as it is: one that was set back, or a copy of it, has
// the same name.
func (r *Runner) sameHistory(ctx context.Context, a *archiving, committed uint64) error {
	if a.same {
		return nil
	}
	if a.pos > committed {
		if a.ahead.IsZero() {
			a.ahead = time.Now()
		}
		if time.Since(a.ahead) < aheadFor {
			return nil
		}
		return fmt.Errorf("%w: it reaches to entry %d, this cluster to %d: was it set back, or is it a copy? Give it another place", repository.ErrHistory, a.pos, committed)
	}
	a.ahead = time.Time{}
	theirs, err := a.repo.TermAt(ctx, a.pos)
	if err != nil {
		return err
	}
	own, _, _, err := r.cfg.Entries(ctx, a.pos, 1)
	if err != nil {
		return err
	}
	if theirs > 0 && len(own) > 0 && own[0].Index == a.pos && own[0].Term != theirs {
		return fmt.Errorf("%w: its entry %d is of term %d, that of this cluster of term %d: was it set back, or is it a copy? Give it another place",
			repository.ErrHistory, a.pos, theirs, own[0].Term)
	}
	a.same = true
	return nil
}

// wanted says why a backup is wanted outside the times of a schedule: without one the archive does not go on.
type wanted struct {
	folder string
	at     int64  // log time since when
	index  uint64 // that it must reach
}

// want notes that the archive of a schedule waits for a backup, or with nil that it does not.
func (r *Runner) want(schedule string, w *wanted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w == nil {
		delete(r.wants, schedule)
	} else if held := r.wants[schedule]; held == nil || held.folder != w.folder || held.index != w.index {
		r.wants[schedule] = w
	}
}

// awaited reports whether the archive of a schedule waits for a backup that has not been made yet.
func (r *Runner) awaited(s *Schedule) bool {
	r.mu.Lock()
	w := r.wants[s.Name]
	r.mu.Unlock()
	if w == nil {
		return false
	}
	for _, run := range list[Run](r.cfg.Meta, prefixRun, maxRecords) {
		if run.Schedule == s.Name && run.Kind == "" && run.OK && run.Repository == w.folder && run.Ended >= w.at && run.Index >= w.index &&
			run.Target.String() == s.Target.String() && (run.Target.Kind != KindFolder || run.Node == r.cfg.Node) {
			return false // the archive has not looked since
		}
	}
	return true
}

// resume finds where the archive goes on: behind what the place holds without a gap.
func (r *Runner) resume(ctx context.Context, s *Schedule, a *archiving, first uint64) (*Gap, error) {
	saves, err := a.repo.Saves(ctx)
	if err != nil {
		return nil, err
	}
	segments, err := a.repo.Segments(ctx)
	if err != nil {
		return nil, err
	}
	spans := repository.Covered(saves, segments)
	if len(spans) == 0 {
		return nil, errNothingYet
	}
	last := spans[len(spans)-1].Until
	silent := []string(nil)
	if last+1 < first && r.cfg.Oldest != nil { // what this node does not hold another one may
		if first, silent, err = r.cfg.Oldest(ctx); err != nil {
			return nil, err
		}
	}
	a.pos, a.same = last, false
	for _, c := range spans {
		if c.Until+1 >= first {
			a.pos, a.ready = c.Until, true
			break
		}
	}
	for _, save := range saves {
		if save.Index <= a.pos {
			a.logTime = max(a.logTime, save.LogTime)
		}
	}
	switch {
	case a.ready:
		return nil, nil
	case len(silent) > 0:
		return nil, fmt.Errorf("entries %d to %d of the log are held by no member that answers; one that does not may have them: %v", last+1, first-1, silent)
	}
	return &Gap{Schedule: s.Name, Node: r.cfg.Node, From: last + 1, To: first - 1, At: r.cfg.Meta.LogTime()}, nil
}

var errNothingYet = errors.New("there is no backup in the repository of this node yet")

// archiveSegment writes one segment.
func (r *Runner) archiveSegment(ctx context.Context, a *archiving, through uint64) error {
	var batch []repository.Entry
	size := int64(0)
	for from := a.pos + 1; from <= through && size < segmentBytes; {
		got, first, _, err := r.cfg.Entries(ctx, from, segmentBytes-size)
		if err != nil {
			return err
		}
		if len(got) == 0 {
			if from < first {
				return fmt.Errorf("entry %d is gone from the log, which begins at %d here, and no member that answers holds it", from, first)
			}
			break
		}
		for i := range got {
			if got[i].Index > through {
				break
			}
			batch = append(batch, got[i])
			size += int64(len(got[i].Data))
			from = got[i].Index + 1
		}
		if got[len(got)-1].Index > through {
			break
		}
	}
	if len(batch) == 0 {
		return fmt.Errorf("the log has no entry %d", a.pos+1)
	}
	format := uint32(0)
	if r.cfg.Format != nil {
		format = r.cfg.Format()
	}
	about := repository.SegmentAbout{Node: r.cfg.Node, Program: r.cfg.Program, Format: format, Created: r.now()}
	seg, err := a.repo.WriteSegment(ctx, about, batch)
	if err != nil {
		return err
	}
	a.pos = seg.Last
	for i := range batch {
		a.logTime = max(a.logTime, batch[i].Stamp)
	}
	return nil
}

// now is the clock of this node, in milliseconds since 1970.
func (r *Runner) now() int64 { return time.Now().UnixMilli() }

// noteArchive writes down how far the archive is, now and then, and a gap once.
func (r *Runner) noteArchive(ctx context.Context, a *archiving, now Archive) {
	changed := now.Error != a.told.Error || (now.Gap == nil) != (a.told.Gap == nil) || a.noted.IsZero()
	if !changed && time.Since(a.noted) < archiveNote {
		return
	}
	now.At = r.cfg.Meta.LogTime()
	txn := auth.Txn{Ops: []auth.Op{{Bucket: Bucket, Key: prefixArchive + now.Schedule, Value: encode(now)}}}
	if g := now.Gap; g != nil {
		r.cfg.Log.Error("entries of the log are gone that were not archived: no restore can end there; the next backup closes the gap",
			"schedule", g.Schedule, "from", g.From, "to", g.To)
		key := fmt.Sprintf("%s%s/%020d", prefixGap, g.Schedule, g.From)
		if _, _, known := get[Gap](r.cfg.Meta, key); !known {
			txn.Ops = append(append(txn.Ops, r.forgetGaps()...), auth.Op{Bucket: Bucket, Key: key, Value: encode(g)})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, claim.CommitLimit)
	defer cancel()
	if _, err := r.cfg.Meta.Commit(ctx, txn); err != nil {
		r.cfg.Log.Warn("how far the archive of the log is could not be written down", "schedule", now.Schedule, "err", err)
		return
	}
	a.told, a.noted = now, time.Now()
}

// forgetGaps keeps the record of gaps within its bound.
func (r *Runner) forgetGaps() []auth.Op {
	all := list[Gap](r.cfg.Meta, prefixGap, 2*maxGaps)
	if len(all) < maxGaps {
		return nil
	}
	slices.SortFunc(all, func(a, b Gap) int { return cmp.Compare(a.At, b.At) })
	return []auth.Op{{Delete: true, Bucket: Bucket, Key: fmt.Sprintf("%s%s/%020d", prefixGap, all[0].Schedule, all[0].From)}}
}

// archiveOf returns how far the archive of a schedule is; nil when it has none.
func (r *Runner) archiveOf(s *Schedule, now int64) *Archive {
	if s.Archive == 0 || !s.Enabled || s.Paused != "" {
		return nil
	}
	a, _, ok := get[Archive](r.cfg.Meta, prefixArchive+s.Name)
	if !ok {
		return &Archive{Schedule: s.Name, Error: "nothing is archived yet", Behind: now - s.Changed}
	}
	a.Behind = max(0, now-a.LogTime)
	if a.LogTime == 0 {
		a.Behind = max(0, now-s.Changed)
	}
	return &a
}
