package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/repair"
	"github.com/triward/triward/appliance/scrub"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
)

// scrubFile is where the state of a node's search for damage is, in the data directory.
const scrubFile = "scrub.json"

// integrity finds damage of this node and compares it with others.
type integrity struct {
	app      *App
	scrubber *scrub.Scrubber
	jobs     deepJobs
	verifier verifier
}

func newIntegrity(a *App) *integrity {
	i := &integrity{app: a}
	i.jobs.i, i.verifier.i = i, i
	i.scrubber = scrub.New(scrub.Config{
		Metrics: a.metrics, Logs: a.logs, Node: scrubbed{a}, File: a.dataPath(scrubFile),
		Every: time.Duration(a.cfg.Scrub.Every), Shift: a.stagger(max(time.Hour, time.Duration(a.cfg.Scrub.Every))),
		Rate: int64(a.cfg.Scrub.Rate), CheckRate: int64(a.cfg.Scrub.VerifyRate), Busy: i.busy, Log: a.part("scrub"),
		OnDamage: i.reported,
	})
	return i
}

// scrubbed is the log and state of the node, once it is open.
type scrubbed struct{ app *App }

func (s scrubbed) node(ctx context.Context) (*raftstate.Node, error) {
	if !s.app.isOpen(ctx) || s.app.node == nil {
		return nil, raftstate.ErrStopped
	}
	return s.app.node, nil
}

// Settled implements scrub.State.
func (s scrubbed) Settled(ctx context.Context) (uint64, []meta.Digest, error) {
	n, err := s.node(ctx)
	if err != nil {
		return 0, nil, err
	}
	return n.Settled(ctx)
}

// Floor implements scrub.State.
func (s scrubbed) Floor(kind command.Kind) int64 { return s.app.state.wait().Floor(kind) }

// ScrubLog implements scrub.Node.
func (s scrubbed) ScrubLog(ctx context.Context, first uint64, pace func(int) error) error {
	n, err := s.node(ctx)
	if err != nil {
		return err
	}
	return n.ScrubLog(ctx, first, pace)
}

// ScrubState implements scrub.Node.
func (s scrubbed) ScrubState(pace func(int) error) (string, error) {
	n, err := s.node(s.app.ctx)
	if err != nil {
		return "", err
	}
	return n.ScrubState(pace)
}

// busyLag is how many entries this node may be behind before it has better to do than to look for damage.
const busyLag = 256

// busy tells that the node has better to do than to look for damage.
func (i *integrity) busy() bool {
	st := i.app.node.Status()
	return st.Installing || st.DiskFull != "" || st.InFlightBytes > st.InFlightLimit/4 || st.CommitIndex > st.AppliedIndex+busyLag
}

// metricsDamaged is tsdb.Options.OnDamage.
func (i *integrity) metricsDamaged(d *tsdb.DamageError) {
	if n := i.app.nodeIfOpen(); n != nil && !n.InUse(d.Dir) {
		return // of a store that was replaced
	}
	i.noted(scrub.Damage{Part: raftstate.PartMetrics, Kind: command.KindMetrics.String(), From: d.From, To: d.To, Place: d.File, Err: d.Err})
}

// logsDamaged is told of damage of the store of lines.
func (i *integrity) logsDamaged(d *logstore.DamageError) {
	out := scrub.Damage{Part: raftstate.PartLogs, From: d.From, To: d.To, Place: d.Place, Err: d.Err}
	if kind, _, ok := strings.Cut(d.Place, "s of "); ok && (kind == "log" || kind == "event") { // logs of 2024-10-04
		out.Kind = kind + "s"
	}
	i.noted(out)
}

// indexChanged is logstore.Options.OnIndex.
func (i *integrity) indexChanged(day int64, why error) {
	place := "word index of " + time.UnixMilli(day*dayMs).UTC().Format(time.DateOnly)
	if why == nil {
		i.app.repairs.Mended(raftstate.PartIndex, place, howRebuilt)
		return
	}
	i.noted(scrub.Damage{Part: raftstate.PartIndex, From: day * dayMs, To: (day + 1) * dayMs, Err: why, Place: place})
}

// noted takes damage of this node from whoever found it: it is listed, and repaired.
func (i *integrity) noted(d scrub.Damage) {
	i.scrubber.Found(d)
	out := repair.Damage{Part: d.Part, Kind: d.Kind, From: d.From, Place: d.Place, Err: fmt.Sprint(d.Err)}
	if d.To > 0 {
		out.To = d.To - 1 // inclusive
	}
	i.app.repairs.Found(out)
}

// reported takes damage that the scrubber found: a day that differs must not be answered from any more.
func (i *integrity) reported(d scrub.Damage) {
	switch {
	case d.Part == raftstate.PartMetrics:
		i.app.metrics.Report(&tsdb.DamageError{File: d.Place, Err: d.Err, From: d.From, To: d.To, Hides: true, Dir: d.Dir})
	case d.Part == raftstate.PartLogs:
		kind := wire.StreamLog
		if d.Kind == command.KindEvents.String() {
			kind = wire.StreamEvent
		}
		i.app.logs.Report(d.Dir, logstore.KindDay{Kind: kind, Day: logstore.Day(d.From * 1e6)}, d.Err)
	default:
		i.noted(d)
	}
}

// holds reads the days in which the asker is damaged, where they are known, and fails when they are not what was accepted.
func (i *integrity) holds(ctx context.Context, asker []repair.Damage) error {
	for _, d := range asker {
		if d.Part != raftstate.PartMetrics && d.Part != raftstate.PartLogs || d.To == 0 {
			continue
		}
		r := scrub.Request{Kinds: []command.Kind{command.KindMetrics}, From: d.From, To: d.To + 1}
		if d.Part == raftstate.PartLogs {
			r.Kinds = []command.Kind{command.KindLogs, command.KindEvents}
		}
		days, _, err := i.scrubber.Check(ctx, r, nil)
		if err != nil {
			return err
		}
		for k := range days {
			if v := days[k].Verdict; v == scrub.Differs || v == scrub.Damaged {
				return fmt.Errorf("%s: %s", days[k].Place(), days[k].Error)
			}
		}
	}
	return nil
}

// Paths on the peer port.
const (
	peerIntegrityPath = "/appliance/integrity"
	peerRecordPath    = "/appliance/integrity/record"
	peerDeepPath      = "/appliance/integrity/deep"
)

// maxRecord bounds what a node says that it held.
const maxRecord = 64 << 20

// peers serves the other members.
func (i *integrity) peers(mux *http.ServeMux) {
	answer := func(path string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			if !i.app.isOpen(r.Context()) {
				problemOf(raftstate.ErrStopped).Write(w)
				return
			}
			v, err := fn(r)
			if err != nil {
				problemOf(err).Write(w)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v) // the other node is gone: it will ask again
		})
	}
	answer(peerIntegrityPath, func(*http.Request) (any, error) { return i.scrubber.Status(), nil })
	answer(peerRecordPath, func(r *http.Request) (any, error) { return i.record(r.Context(), r.FormValue("name")) })
	answer(peerDeepPath, func(r *http.Request) (any, error) {
		var req api.VerifyRequest
		if err := json.Unmarshal([]byte(r.FormValue("request")), &req); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
		return i.jobs.progress(r.FormValue("name"), req)
	})
}

func (i *integrity) record(ctx context.Context, name string) (scrub.NodeRecord, error) {
	r, err := i.app.node.Recorded(ctx, name)
	if err != nil {
		return scrub.NodeRecord{}, err
	}
	return scrub.Recorded(i.app.cfg.NodeID, &r), nil
}

// Integrity implements api.Integrity.
func (i *integrity) Integrity(ctx context.Context) api.IntegrityView {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	members := i.app.node.Status().Members
	out := api.IntegrityView{Nodes: make([]api.IntegrityNode, len(members)), Last: i.last()}
	var wg sync.WaitGroup
	for k, m := range members {
		n := &out.Nodes[k]
		n.Node = m.ID
		if m.ID == i.app.cfg.NodeID {
			n.Status = i.scrubber.Status()
			continue
		}
		wg.Go(func() {
			if err := i.app.askPeer(ctx, m.ID, peerIntegrityPath, &n.Status); err != nil {
				n.Status, n.Error = scrub.Status{}, "it does not answer"
				if !errors.Is(err, context.DeadlineExceeded) && refusedWith(err, http.StatusNotFound) {
					n.Error = "its program is too old to say"
				}
			}
		})
	}
	wg.Wait()
	for k := range out.Nodes { // lists, never null
		if n := &out.Nodes[k]; n.Found == nil || n.Left == nil || n.Failed == nil {
			n.Found, n.Left, n.Failed = append([]scrub.Finding{}, n.Found...), append([]scrub.Day{}, n.Left...), append([]scrub.Failure{}, n.Failed...)
		}
	}
	return out
}
