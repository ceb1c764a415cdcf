package appliance

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
)

// ErrRecovering says that a recovery of the node was begun and not finished.
var ErrRecovering = errors.New("a recovery of this node was begun and not finished")

// ErrDamagedLog says that a recovery would give up the damaged end of the node's log, which nobody has agreed to.
var ErrDamagedLog = errors.New("the end of this node's log is damaged")

// ErrMajority says that a recovery was refused because the majority is not lost.
var ErrMajority = errors.New("the majority of the cluster is not lost")

// recoverMark lies in the data directory while a recovery is under way, and has its recoveredFrom. No server starts with it.
const recoverMark = "RECOVER"

// keyRecovered of bucketSettings holds the recoveredFrom of the last recovery.
const keyRecovered = "recovered"

// maxFormer bounds how many incarnations are remembered, the newest.
const maxFormer = 100

// formerly makes the refusal of a certificate of another incarnation one for good, with the reason, when it is of one that a
// recovery of this cluster ended: its node is told and ends. Two that come back together would else go on as the cluster of
// before. A cluster that was restored from a backup tells nobody: the one that was backed up may be in use.
func (a *App) formerly(cert *x509.Certificate, refusal error) error {
	if !a.state.isOpen() {
		return refusal
	}
	var note recoveredFrom
	v, ok := a.state.Get(bucketSettings, keyRecovered)
	if !ok || json.Unmarshal(v.Data, &note) != nil || note.Incarnation != a.identity.Incarnation() || !slices.Contains(note.Former, pki.Incarnation(cert)) {
		return refusal
	}
	return fmt.Errorf("%w: the cluster went on without this node when it was recovered on node %s at %s by %s",
		forward.ErrEnded, note.Node, time.UnixMilli(note.At).UTC().Format(time.RFC3339), note.By)
}

// recoveredFrom is what a cluster remembers of its recovery.
type recoveredFrom struct {
	Node        string   `json:"node"`
	By          string   `json:"by"` // who ran the command, by the system's word
	At          int64    `json:"at"` // by the node's clock, milliseconds since 1970
	Lost        []string `json:"lost"`
	Mark        uint64   `json:"mark_index"`
	Last        uint64   `json:"last_index"`
	Incarnation string   `json:"incarnation"`
	Cut         uint64   `json:"cut_index,omitempty"` // the first entry that was given up as damaged
	// Former are the incarnations before it: who comes with a certificate of one was given up.
	Former []string `json:"former,omitempty"`
}

// recovering returns ErrRecovering when the node is in the middle of a recovery. The configuration must be resolved.
func (c *Config) recovering() error {
	if _, err := os.Lstat(filepath.Join(c.DataDir, recoverMark)); err == nil {
		return ErrRecovering
	}
	return nil
}

// RecoveryPlan says what a recovery would do.
type RecoveryPlan struct {
	raftstate.Left
	Cluster string
	Former  string // incarnation that ends
	Again   bool   // one was begun before
	Lost    []raftstate.Member
	// Answering are those of Lost that answer on their peer port.
	Answering []string
}

// PlanRecovery looks at a stopped node whose cluster has lost its majority for good. It refuses a node that runs, that is
// none, or that cannot go on alone, and with ErrMajority one whose cluster can still be had. Nothing is changed. The
// configuration must be resolved.
func (c *Config) PlanRecovery(ctx context.Context) (_ *RecoveryPlan, err error) {
	release, err := lockDir(c.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := errors.Join(c.Initialised(), c.Removed()); err != nil {
		return nil, err
	}
	if _, _, _, err := c.findCA(&IssueOptions{}, &Issued{}); err != nil {
		return nil, err
	}
	identity, err := pki.Load(c.TLS.Dir)
	if err != nil {
		return nil, err
	}
	left, err := raftstate.Inspect(ctx, c.DataDir)
	if err != nil {
		return nil, fatalCause(err)
	}
	plan := &RecoveryPlan{Left: *left, Cluster: identity.ClusterID(), Former: identity.Incarnation(), Again: c.recovering() != nil}
	if left.Probation {
		return nil, errors.New("this node lost its data and has not caught up with its cluster: recover another one, or restore a backup")
	}
	voters := 0
	for _, m := range left.Members {
		if m.Voter {
			voters++
		}
		if m.ID != c.NodeID {
			plan.Lost = append(plan.Lost, m)
		}
	}
	if plan.Again {
		return plan, nil
	}
	answeringVoters, further := 0, ""
	for _, m := range plan.Lost {
		answers, st := c.answers(ctx, identity, m)
		if answers {
			plan.Answering = append(plan.Answering, m.ID)
		}
		if m.Voter && st.votes() {
			answeringVoters++
		}
		if st.votes() && further == "" && st.beyond(left) {
			further = fmt.Sprintf("node %s answers and holds the log up to entry %d, this one up to %d: recover node %s, or stop it if it is to be given up", m.ID, st.LastIndex, left.Last, m.ID)
		}
	}
	own := 0
	for _, m := range left.Members {
		if m.ID == c.NodeID && m.Voter {
			own = 1
		}
	}
	if len(plan.Lost) > 0 && answeringVoters+own > voters/2 {
		return nil, fmt.Errorf("%w: %d of %d voters answer (%v); start this node as it is", ErrMajority, answeringVoters+own, voters, plan.Answering)
	}
	if further != "" {
		return nil, errors.New(further)
	}
	if len(plan.Lost) == 0 && left.Damage == "" {
		return nil, fmt.Errorf("%w: this node is its only member; start it as it is", ErrMajority)
	}
	return plan, nil
}

// Agreed returns ErrDamagedLog, and says what would be given up, when the end of the log must be cut first and cut is false.
func (p *RecoveryPlan) Agreed(cut bool) error {
	if p.Damage == "" || cut {
		return nil
	}
	return fmt.Errorf("%w: %s; %d entries from %d on, which it may have acknowledged, would be given up", ErrDamagedLog, p.Damage, p.GivenUp, p.Cut)
}

// heardOf is what a member says of itself; the zero value, when it answers, is one that is only starting or of another version.
type heardOf struct {
	raftstate.Status
	answers bool
}

// votes reports whether it could help to elect a leader: a node that lost its data, or has met a fatal error, cannot.
func (h *heardOf) votes() bool { return h.answers && !h.Probation && h.Fatal == "" }

// beyond reports whether its log is more advanced than what is left here.
func (h *heardOf) beyond(left *raftstate.Left) bool {
	if h.LastTerm != 0 && h.LastTerm != left.LastTerm {
		return h.LastTerm > left.LastTerm
	}
	return h.LastIndex > left.Last
}

// answers returns whether a member answers calls of this node, and what it says.
func (c *Config) answers(ctx context.Context, identity *pki.Identity, m raftstate.Member) (bool, *heardOf) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client := forward.NewClient(staticIdentity(identity), func(string) (string, error) { return m.Addr, nil })
	defer client.Close()
	body, err := client.Call(ctx, m.ID, "status", nil)
	if err != nil {
		var remote *forward.RemoteError // it is only starting, perhaps
		there := errors.As(err, &remote)
		return there, &heardOf{answers: there}
	}
	st := &heardOf{answers: true}
	if err := json.Unmarshal(body, &st.Status); err != nil { // of another version
		return true, &heardOf{answers: true}
	}
	return true, st
}

// Recover makes a stopped node the only member of a cluster that goes on from what it holds, as another incarnation: the
// members that are lost cannot come back with what they have. What was interrupted is gone on with when it is called again.
// The configuration must be resolved; cut agrees that a damaged end of the log is given up. phase is told
// what begins.
func Recover(ctx context.Context, cfg Config, by string, cut bool, log *slog.Logger, phase func(string)) (err error) {
	plan, err := cfg.PlanRecovery(ctx)
	if err != nil {
		return err
	}
	if err := plan.Agreed(cut); err != nil {
		return err
	}
	release, err := lockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	ca, _, _, err := cfg.findCA(&IssueOptions{}, &Issued{})
	if err != nil {
		return err
	}
	if err := ca.Good(time.Now()); err != nil {
		return err
	}
	note, err := cfg.beginRecovery(plan, by)
	if err != nil {
		return err
	}
	if plan.Damage != "" {
		phase("cut the damaged end of the log")
		if err := raftstate.CutDamaged(ctx, cfg.DataDir); err != nil {
			return fatalCause(err)
		}
	}
	phase("apply what the log holds")
	through, err := alone(ctx, &cfg, log)
	if err != nil {
		return fatalCause(err)
	}
	phase("begin anew")
	self := raftstate.Server{ID: cfg.NodeID, Addr: cfg.Listen.Peer.Advertise}
	err = raftstate.Renew(cfg.DataDir, self, through, func(tx *meta.Tx) error { return beginRecovered(tx, note) })
	if err != nil {
		return fatalCause(err)
	}
	setup := Setup{ClusterID: plan.Cluster, Recovered: note}
	if err := setup.Write(cfg.DataDir); err != nil {
		return err
	}
	if err := cfg.IssueIdentity(ca.InIncarnation(note.Incarnation)); err != nil {
		return err
	}
	if err := cfg.SaveRecovery(); err != nil {
		return err
	}
	return removeFile(filepath.Join(cfg.DataDir, recoverMark))
}

// beginRecovery writes down that a recovery begins, or reads what one that was interrupted wrote.
func (c *Config) beginRecovery(plan *RecoveryPlan, by string) (*recoveredFrom, error) {
	path := filepath.Join(c.DataDir, recoverMark)
	body, err := os.ReadFile(path)
	if err == nil {
		var note recoveredFrom
		if err := json.Unmarshal(body, &note); err == nil && note.Incarnation != "" {
			return &note, nil
		}
		// It cannot be read. Without it the node would start alone as the cluster of before, so it is written anew.
	}
	note := &recoveredFrom{
		Node: c.NodeID, By: by, At: time.Now().UnixMilli(), Mark: plan.Mark.Index, Last: plan.Last, Cut: plan.Cut, Incarnation: pki.NewIncarnation(),
		Former: []string{plan.Former},
	}
	for _, m := range plan.Lost {
		note.Lost = append(note.Lost, m.ID)
	}
	if body, err = json.Marshal(note); err != nil {
		return nil, fmt.Errorf("encode note of the recovery: %w", err)
	}
	return note, pki.WriteSecret(path, body)
}

// alone applies everything that the node's log holds, with this node as the only member.
func alone(ctx context.Context, cfg *Config, log *slog.Logger) (uint64, error) {
	state := newLateState()
	metrics, err := tsdb.New(tsdb.Options{Dictionary: state, Logger: log})
	if err != nil {
		return 0, err
	}
	logs, err := logstore.New(logstore.Options{Log: log, CacheBytes: int64(cfg.Logs.CacheBytes)})
	if err != nil {
		return 0, errors.Join(err, metrics.Close())
	}
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	through, err := raftstate.Alone(ctx, raftstate.Config{
		NodeID: cfg.NodeID, DataDir: cfg.DataDir, Advertise: cfg.Listen.Peer.Advertise,
		QueueBytes: int64(cfg.Queue.Retention.Bytes), QueueAge: time.Duration(cfg.Queue.Retention.Time),
		OnFatal: func(err error) {
			failed <- err
			cancel(err)
		},
		Logger: log,
	}, raftstate.Sinks{Metrics: metrics, Logs: logs}, state.open)
	state.open(nil)
	select {
	case fatal := <-failed:
		return 0, fatal
	default:
	}
	return through, err
}

// beginRecovered edits the metadata for the cluster that goes on. What was taken away last, a right or a token, may be among
// what was lost: sessions and invitations end, so that nobody goes on who was to be kept out.
func beginRecovered(tx *meta.Tx, note *recoveredFrom) error {
	for _, bucket := range endsWithRestore {
		for _, key := range tx.Keys(bucket) {
			tx.Delete(bucket, key)
		}
	}
	for _, key := range tx.Keys(auth.BucketAPITokens) {
		var t auth.APIToken
		if v, _ := tx.Get(auth.BucketAPITokens, key); json.Unmarshal(v.Data, &t) == nil && t.Node != "" {
			tx.Delete(auth.BucketAPITokens, key) // of the command line on a node; this one makes its own anew
		}
	}
	var before recoveredFrom
	if v, ok := tx.Get(bucketSettings, keyRecovered); ok && json.Unmarshal(v.Data, &before) == nil {
		for _, name := range before.Former {
			if len(note.Former) < maxFormer && name != note.Incarnation && !slices.Contains(note.Former, name) {
				note.Former = append(note.Former, name)
			}
		}
	}
	body, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("encode note of the recovery: %w", err)
	}
	tx.Put(bucketSettings, keyRecovered, body, 0)
	return nil
}

// noteRecovery writes into the audit log that the cluster goes on without its majority.
func (a *App) noteRecovery(ctx context.Context) error {
	if a.setup == nil || a.setup.Recovered == nil {
		return nil
	}
	detail, err := json.Marshal(a.setup.Recovered)
	if err != nil {
		return fmt.Errorf("encode note of the recovery: %w", err)
	}
	key := "recovered_noted/" + a.setup.Recovered.Incarnation
	_, err = a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketSettings, Key: key}},
		Ops:      []command.Op{{Bucket: bucketSettings, Key: key, Value: []byte("true")}},
		Audit:    []command.AuditRecord{{Actor: "node " + a.cfg.NodeID, Action: "cluster.recover", Target: a.identity.ClusterID(), Detail: detail}},
	})
	if errors.Is(err, auth.ErrConflict) { // noted before this start
		return nil
	}
	return err
}
