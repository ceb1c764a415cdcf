// Package schedule makes backups on the server side: at the times of schedules, and when an operator asks. It owns the
// bucket `snapshots` of the metadata: schedules, what became of each run, and the claim of the one that is under way.
//
// It promises: at most one backup is being made in the cluster, held by a claim that its maker renews and that ends
// with it; times go by log time, so a clock that jumps brings none forward or drops none; a slot that was missed is made
// up for once; a run that fails is tried again, and what became of it is in the record; only backups that this cluster
// itself recorded are ever removed, never the newest good one. Credentials are sealed before they are proposed.
//
// How a backup is made comes in through Config.Prepare. The package must not import api, cli or raftstate.
package schedule

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/target"
)

// Errors of this package.
var (
	// ErrInvalid says that a schedule or a request breaks a rule; the text names it.
	ErrInvalid = errors.New("backup")
	// ErrRunning says that a backup is being made already somewhere in the cluster.
	ErrRunning = errors.New("a backup is being made already")
	// ErrNotFound says that there is no such schedule or run.
	ErrNotFound = errors.New("not found")
	// ErrUnsealed says that credentials were to be stored and there is no key to seal them with.
	ErrUnsealed = errors.New("this cluster has no key ring to seal the secret key with, so it is not stored")
)

// Kinds of targets.
const (
	KindFolder = "folder" // of the node that makes the backup, named by its configuration
	KindS3     = "s3"
)

// Where says where backups go.
type Where struct {
	Kind      string `json:"kind"`
	URL       string `json:"url,omitempty"`      // s3://bucket/prefix
	Endpoint  string `json:"endpoint,omitempty"` // https://host:port
	Region    string `json:"region,omitempty"`
	AccessKey string `json:"access_key,omitempty"`
	SecretKey string `json:"secret_key,omitempty"` // sealed in what is stored, never shown
	CA        string `json:"ca_pem,omitempty"`
}

func (w *Where) s3(secret string) target.S3Config {
	return target.S3Config{URL: w.URL, Endpoint: w.Endpoint, Region: w.Region, AccessKey: w.AccessKey, SecretKey: secret, CA: []byte(w.CA)}
}

// String says where that is, without secrets.
func (w *Where) String() string {
	if w.Kind == KindS3 {
		return w.URL
	}
	return w.Kind
}

func (w *Where) check() error {
	switch w.Kind {
	case KindFolder:
		if *w != (Where{Kind: KindFolder}) {
			return fmt.Errorf("%w: target: a folder takes nothing but its kind; it is named by backup.dir of each node", ErrInvalid)
		}
		return nil
	case KindS3:
		if len(w.CA) > maxCA || len(w.URL) > maxURL || len(w.Endpoint) > maxURL {
			return fmt.Errorf("%w: target: url, endpoint or ca_pem is longer than %d, %d and %d bytes", ErrInvalid, maxURL, maxURL, maxCA)
		}
		cfg := w.s3(w.SecretKey)
		return target.CheckS3(&cfg)
	}
	return fmt.Errorf("%w: target: kind %.20q: want folder or s3", ErrInvalid, w.Kind)
}

// Protection says for whom backups are encrypted.
type Protection struct {
	Recipients []string `json:"recipients,omitempty"` // public keys of age
	Recovery   bool     `json:"recovery,omitempty"`   // the cluster's recovery key too
	Plain      bool     `json:"plain,omitempty"`      // not encrypted at all, which must be said
}

func (p *Protection) check() error {
	if _, err := backup.Recipients(p.Recipients, ""); err != nil {
		return err
	}
	if p.Plain == (len(p.Recipients) > 0 || p.Recovery) {
		return fmt.Errorf("%w: name public keys in recipients, or set recovery, or set plain for backups that are not encrypted; not both", ErrInvalid)
	}
	return nil
}

// Job is what one run makes.
type Job struct {
	Target Where `json:"target"`
	Protection
	Node string `json:"node,omitempty"` // that makes it; the leader when empty
	// Form is FormFile, or FormRepository: what has not changed since an earlier backup is not stored again.
	Form string `json:"form,omitempty"`
	// Drill is every how many days a node tries to restore the newest backup; 0: never. Backups that are encrypted are
	// then readable by the cluster itself too.
	Drill int `json:"drill_days,omitempty"`

	kind string // of the run
}

// Forms of backups.
const (
	FormFile       = "file" // one file by itself; also when nothing is said
	FormRepository = "repository"
)

func (j *Job) check() error {
	if err := errors.Join(j.Target.check(), j.Protection.check()); err != nil {
		return err
	}
	if cfg := j.Target.s3(""); j.Target.Kind == KindS3 && j.Plain && !cfg.Secure() {
		return fmt.Errorf("%w: a backup that is not encrypted does not go over http; use https or encrypt it", ErrInvalid)
	}
	if j.Form != "" && j.Form != FormFile && j.Form != FormRepository {
		return fmt.Errorf("%w: form %.20q: want file or repository", ErrInvalid, j.Form)
	}
	if j.Drill < 0 || j.Drill > maxDrill {
		return fmt.Errorf("%w: drill_days %d: want 0 to %d", ErrInvalid, j.Drill, maxDrill)
	}
	if j.Drill > 0 && j.Form != FormRepository {
		return fmt.Errorf("%w: drill_days: restores are tried of repositories (form repository); `triward snapshot drill` tries one of a file", ErrInvalid)
	}
	if len(j.Node) > 64 {
		return fmt.Errorf("%w: node %.80q", ErrInvalid, j.Node)
	}
	return nil
}

// Schedule says when which backup is made, and how many are kept.
type Schedule struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
	Job
	At       string   `json:"at"`                 // HH:MM, the first of a day
	Every    int      `json:"every_h"`            // hours from one to the next: 1, 2, 3, 4, 6, 8, 12 or 24
	Weekdays []string `json:"weekdays,omitempty"` // mon to sun; every day when empty
	Zone     string   `json:"zone"`               // IANA name of the time zone; UTC when empty
	// Of the backups made by this schedule those beyond KeepLast that are older than KeepDays are removed. 0: for ever.
	KeepLast int `json:"keep_last"`
	KeepDays int `json:"keep_days"`
	// Archive is every how many seconds the log is archived behind the newest backup, so that a restore can end at any
	// entry; 0: not at all. It wants FormRepository.
	Archive int `json:"archive_s,omitempty"`

	Paused  string `json:"paused,omitempty"` // why it was taken out of use by the program; cleared when it is saved
	By      string `json:"by,omitempty"`
	Changed int64  `json:"changed,omitempty"` // log time, milliseconds
}

// Bounds of schedules.
const (
	MaxSchedules = 16
	maxKeep      = 400
	maxKeepDays  = 3660
	maxDrill     = 366
	minArchive   = 5     // seconds
	maxArchive   = 86400 // seconds
	maxCA        = 64 << 10
	maxURL       = 1000
)

var (
	scheduleName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
	weekdays     = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	everyHours   = []int{1, 2, 3, 4, 6, 8, 12, 24}
)

// check says what is wrong with a schedule.
func (s *Schedule) check() error {
	if !scheduleName.MatchString(s.Name) {
		return fmt.Errorf("%w: name %.50q: want 1 to 40 of a-z, 0-9 and -", ErrInvalid, s.Name)
	}
	if _, err := time.Parse("15:04", s.At); err != nil {
		return fmt.Errorf("%w: at %.20q: want a time of the day such as 02:30", ErrInvalid, s.At)
	}
	if !slices.Contains(everyHours, s.Every) {
		return fmt.Errorf("%w: every_h %d: want 1, 2, 3, 4, 6, 8, 12 or 24", ErrInvalid, s.Every)
	}
	for _, d := range s.Weekdays {
		if !slices.Contains(weekdays, d) {
			return fmt.Errorf("%w: weekdays %.20q: want %s", ErrInvalid, d, strings.Join(weekdays, ", "))
		}
	}
	if _, err := time.LoadLocation(s.Zone); err != nil || len(s.Zone) > 60 {
		return fmt.Errorf("%w: zone %.60q: want a name such as Europe/Berlin or Asia/Shanghai", ErrInvalid, s.Zone)
	}
	if s.KeepLast < 0 || s.KeepLast > maxKeep || s.KeepDays < 0 || s.KeepDays > maxKeepDays {
		return fmt.Errorf("%w: keep_last %d and keep_days %d: want 0 to %d and 0 to %d", ErrInvalid, s.KeepLast, s.KeepDays, maxKeep, maxKeepDays)
	}
	if s.Archive != 0 && (s.Archive < minArchive || s.Archive > maxArchive) {
		return fmt.Errorf("%w: archive_s %d: want 0 for none, or %d to %d", ErrInvalid, s.Archive, minArchive, maxArchive)
	}
	if s.Archive > 0 && s.Form != FormRepository {
		return fmt.Errorf("%w: archive_s: the log is archived in repositories (form repository)", ErrInvalid)
	}
	return s.Job.check()
}

// slots are the times of a schedule around a moment.
func (s *Schedule) slots(around time.Time) []time.Time {
	zone, err := time.LoadLocation(s.Zone)
	if err != nil { // this node lacks the time zone, which another had
		zone = time.UTC
	}
	at, err := time.Parse("15:04", s.At)
	if err != nil {
		return nil
	}
	day := around.In(zone)
	var out []time.Time
	for d := -8; d <= 8; d++ {
		for h := 0; h < 24; h += max(s.Every, 1) {
			t := time.Date(day.Year(), day.Month(), day.Day()+d, at.Hour()+h, at.Minute(), 0, 0, zone)
			if len(s.Weekdays) == 0 || slices.Contains(s.Weekdays, weekdays[t.Weekday()]) {
				out = append(out, t)
			}
		}
	}
	slices.SortFunc(out, time.Time.Compare)
	return slices.CompactFunc(out, time.Time.Equal)
}

// Next returns the first time of the schedule after a moment, both in milliseconds since 1970; 0 when it is off.
func (s *Schedule) Next(after int64) int64 {
	if !s.Enabled || s.Paused != "" {
		return 0
	}
	for _, t := range s.slots(time.UnixMilli(after)) {
		if t.UnixMilli() > after {
			return t.UnixMilli()
		}
	}
	return 0
}

// last returns the newest time of the schedule that is not after a moment; 0 for none within a week.
func (s *Schedule) last(now int64) int64 {
	var found int64
	for _, t := range s.slots(time.UnixMilli(now)) {
		if t.UnixMilli() <= now {
			found = t.UnixMilli()
		}
	}
	return found
}

// Run is one backup: being made, made, or failed. Times are log time in milliseconds.
type Run struct {
	ID       string `json:"id"`
	Schedule string `json:"schedule,omitempty"` // "" when an operator asked
	By       string `json:"by,omitempty"`
	Node     string `json:"node"`
	Started  int64  `json:"started"`
	Ended    int64  `json:"ended,omitempty"` // 0: under way, or its node went down
	OK       bool   `json:"ok"`
	Error    string `json:"error,omitempty"`

	Target     Where  `json:"target"` // with the sealed secret, to remove the backup by
	Name       string `json:"name,omitempty"`
	Index      uint64 `json:"index,omitempty"`
	Bytes      int64  `json:"bytes,omitempty"`
	ImageBytes int64  `json:"image_bytes,omitempty"`
	Digest     string `json:"digest,omitempty"`
	Encryption string `json:"encryption,omitempty"`
	Keys       string `json:"keys,omitempty"`
	ReadBack   bool   `json:"read_back,omitempty"` // it was read back whole after it was stored
	Removed    bool   `json:"removed,omitempty"`   // by the schedule's rule
	// Repository is the folder of the repository in the target that has the backup, "" for one that is a file.
	Repository string `json:"repository,omitempty"`
	Stored     int64  `json:"stored,omitempty"` // bytes that went into a repository; Bytes is of all that it is made of
	// Kind is KindDrill for a restore that was tried; "" for a backup.
	Kind  string `json:"kind,omitempty"`
	Drill *Drill `json:"drill,omitempty"`
	// Incarnation of the cluster that made it: another one removes nothing.
	Incarnation string `json:"incarnation,omitempty"`
}

// KindDrill is the kind of a run that tried a restore.
const KindDrill = "drill"

// Drill is what trying a restore found.
type Drill struct {
	Of     string `json:"of"`     // run whose backup it was
	Digest string `json:"digest"` // of what was read
	Want   string `json:"want"`   // that of the manifest
	Days   int    `json:"days"`
	// Partial counts days of which retention had removed a part: of those the digests cannot be equal.
	Partial int               `json:"partial,omitempty"`
	Counts  map[string]uint64 `json:"counts"` // samples, lines and events read
	// Entries of the log were read behind the backup, up to Until.
	Entries uint64 `json:"entries,omitempty"`
	Until   uint64 `json:"until,omitempty"`
}

// Claim is the run under way.
type Claim struct {
	Run
	Phase  string `json:"phase"`
	Done   int64  `json:"done"` // bytes of the image
	Total  int64  `json:"total"`
	Cancel bool   `json:"cancel,omitempty"` // somebody wants it to end
}

// state is how far a schedule is.
type state struct {
	Slot     int64 `json:"slot"` // the newest time that was begun
	Attempts int   `json:"attempts,omitempty"`
	Retry    int64 `json:"retry,omitempty"` // log time of the next attempt at the same slot; 0: none
}

// retryAfter are the pauses before a failed run is tried again.
var retryAfter = []time.Duration{time.Minute, 5 * time.Minute, 20 * time.Minute}
