package appliance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/scrub"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

const (
	// keyVerified has the last comparison that ended, as JSON of api.Verification.
	keyVerified = "verified"
	// recordPatience is how long nodes may take to have recorded: they may be behind.
	recordPatience = 30 * time.Second
	// deepPoll is how often a node is asked how far it has read, deepSilence how long it may not answer.
	deepPoll    = 500 * time.Millisecond
	deepSilence = 30 * time.Second
	// deepForgotten is after how long a node ends a job that nobody asks for any more.
	deepForgotten = 2 * time.Minute
	// deepStalls is for how long a node may say that it has read nothing more, deepLongest for how long it may read.
	deepStalls  = 10 * time.Minute
	deepLongest = 24 * time.Hour
	// keyTables bounds the tables whose records are compared one by one, verifyTries how often a comparison begins anew
	// that a mark overtook.
	keyTables   = 16
	verifyTries = 3
	dayMs       = 24 * 3600 * 1000
	// maxVerifyFound bounds the damaged files that are listed.
	maxVerifyFound = 100
	// maxVerified bounds what is written into the metadata of a comparison.
	maxVerified = 48 << 10
)

var errVerifyRuns = problem.New(http.StatusConflict, "this node is comparing the nodes already").
	WithHint("wait for it, or ask another node")

// verifier compares the nodes, one comparison at a time.
type verifier struct {
	i *integrity

	mu  sync.Mutex
	now api.Verification // the newest, also when it has ended
}

// Verify implements api.Integrity.
func (i *integrity) Verify(_ context.Context, r api.VerifyRequest, by auth.AuditRecord) (api.Verification, error) {
	if _, err := r.KindList(); err != nil {
		return api.Verification{}, err
	}
	v := &i.verifier
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.now.Verdict == api.VerifyRunning {
		return api.Verification{}, errVerifyRuns
	}
	v.now = api.Verification{
		Name: rand.Text(), Request: r, By: by.Actor, Node: i.app.cfg.NodeID, Began: time.Now().UnixMilli(), Verdict: api.VerifyRunning,
		Nodes: []api.VerifiedNode{}, Differences: []scrub.Difference{},
	}
	run := v.now
	i.app.work.Go(func() { v.run(i.app.ctx, &run, by) })
	return v.now, nil
}

// Verification implements api.Integrity.
func (i *integrity) Verification(name string) (api.Verification, bool) {
	v := &i.verifier
	v.mu.Lock()
	defer v.mu.Unlock()
	out := v.now
	out.Nodes = slices.Clone(out.Nodes)
	return out, out.Name == name && name != ""
}

// last is the last comparison that ended, made by any node.
func (i *integrity) last() *api.Verification {
	v, ok := i.app.state.Get(raftstate.BucketIntegrity, keyVerified)
	var out api.Verification
	if !ok || json.Unmarshal(v.Data, &out) != nil {
		return nil
	}
	return &out
}

func (v *verifier) show(run *api.Verification) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = *run
	v.now.Nodes = slices.Clone(run.Nodes)
}

func (v *verifier) run(ctx context.Context, run *api.Verification, by auth.AuditRecord) {
	err := v.compare(ctx, run, by)
	if err == nil && run.Request.Deep {
		v.deep(ctx, run)
	}
	run.Verdict = verdict(run, err)
	if err != nil {
		run.Notes = append(run.Notes, err.Error())
	}
	run.Ended = time.Now().UnixMilli()
	if err := v.write(ctx, run); err != nil {
		run.Notes = append(run.Notes, "it is not written down: "+err.Error())
	}
	v.show(run)
	v.i.app.log.Info("the nodes were compared", "verdict", run.Verdict, "index", run.Index, "differences", len(run.Differences), "by", run.By)
}

func verdict(run *api.Verification, err error) string {
	if len(run.Differences) > 0 {
		return api.VerifyDiffers
	}
	if err != nil {
		return api.VerifyIncomplete
	}
	for i := range run.Nodes {
		n := &run.Nodes[i]
		if !n.Answered || n.Error != "" {
			return api.VerifyIncomplete
		}
		for k := range n.Days {
			if d := &n.Days[k]; d.Verdict == scrub.Changing && d.Day < run.LogTime/dayMs {
				return api.VerifyIncomplete
			}
		}
	}
	return api.VerifyEqual
}

// write puts what came of it into the metadata, shortened to what has room there.
func (v *verifier) write(ctx context.Context, run *api.Verification) error {
	short := *run
	body, err := json.Marshal(&short)
	for err == nil && len(body) > maxVerified {
		if len(short.Differences) > 10 {
			short.Differences = short.Differences[:len(short.Differences)/2]
		} else {
			short.Nodes = slices.Clone(short.Nodes)
			for i := range short.Nodes {
				short.Nodes[i].Days = short.Nodes[i].Days[:len(short.Nodes[i].Days)/2]
			}
		}
		body, err = json.Marshal(&short)
	}
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, recordPatience)
	defer cancel()
	_, err = v.i.app.commit(ctx, command.Txn{Ops: []command.Op{{Bucket: raftstate.BucketIntegrity, Key: keyVerified, Value: body}}})
	return err
}

// compare has all nodes record at one index and compares what they say. Where tables differ they record once more, with
// the records of those.
func (v *verifier) compare(ctx context.Context, run *api.Verification, by auth.AuditRecord) error {
	records, err := v.collect(ctx, run, nil, by)
	if err != nil {
		return err
	}
	kinds, _ := run.Request.KindList() // was looked at before
	only(records, kinds, run.Request.From, run.Request.To)
	run.Differences = append(run.Differences, scrub.Differences(records)...)
	for i := range records {
		r := &records[i]
		if i == 0 {
			run.Index, run.LogTime, run.State, run.Days = r.Index, r.LogTime, r.State, len(r.Digests)
			for _, d := range r.Digests {
				run.Items += d.Count
			}
			run.Digest = fold(r.Digests)
		}
	}
	if len(run.Differences) > 0 {
		run.Digest, run.State = "", ""
	}
	v.show(run)
	tables := scrub.TablesOf(run.Differences, keyTables)
	if len(tables) == 0 {
		return nil
	}
	again := *run
	again.Nodes = nil
	if records, err = v.collect(ctx, &again, tables, by); err != nil {
		run.Notes = append(run.Notes, "which records differ is not known: "+err.Error())
		return nil
	}
	for _, d := range scrub.Differences(records) {
		if d.Key != "" {
			run.Differences = append(run.Differences, d)
		}
	}
	return nil
}

// only leaves of the digests those that were asked for.
func only(records []scrub.NodeRecord, kinds []command.Kind, from, to int64) {
	for i := range records {
		records[i].Digests = slices.DeleteFunc(records[i].Digests, func(d scrub.NodeDigest) bool {
			asked := kinds == nil || slices.ContainsFunc(kinds, func(k command.Kind) bool { return k.String() == d.Kind })
			return !asked || from != 0 && (d.Day+1)*dayMs <= from || to != 0 && d.Day*dayMs >= to
		})
	}
}

func fold(digests []scrub.NodeDigest) string {
	var b strings.Builder
	for _, d := range digests {
		fmt.Fprintf(&b, "%s %d %d %s\n", d.Kind, d.Day, d.Count, d.Sum)
	}
	return meta.FoldText(b.String())
}

// collect has all nodes record under a new name and asks them for it.
func (v *verifier) collect(ctx context.Context, run *api.Verification, tables []string, by auth.AuditRecord) (out []scrub.NodeRecord, err error) {
	for range verifyTries {
		var lost bool
		if out, lost, err = v.once(ctx, run, tables, by); err == nil && !lost {
			return out, nil
		}
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
	}
	return out, err
}

// once is a try of collect. lost says that a node that answers could not record, because a mark or image came between.
func (v *verifier) once(ctx context.Context, run *api.Verification, tables []string, by auth.AuditRecord) (out []scrub.NodeRecord, lost bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordPatience)
	defer cancel()
	name := rand.Text()
	op, err := raftstate.NewMarker(raftstate.Marker{Name: name, Keys: tables})
	if err != nil {
		return nil, false, err
	}
	detail, err := json.Marshal(map[string]any{"deep": run.Request.Deep, "kinds": run.Request.Kinds, "from": run.Request.From, "to": run.Request.To})
	if err != nil {
		return nil, false, fmt.Errorf("encode audit record: %w", err)
	}
	txn := command.Txn{Ops: []command.Op{op}}
	if len(tables) == 0 {
		txn.Audit = []command.AuditRecord{{Actor: by.Actor, Address: by.Address, Action: "cluster.verify", Target: run.Name, Detail: detail}}
	}
	if _, err := v.i.app.commit(ctx, txn); err != nil {
		return nil, false, fmt.Errorf("ask the nodes to record: %w", err)
	}
	members := v.i.app.node.Status().Members
	records, errs := make([]scrub.NodeRecord, len(members)), make([]error, len(members))
	var wg sync.WaitGroup
	for k, m := range members {
		wg.Go(func() {
			if m.ID == v.i.app.cfg.NodeID {
				records[k], errs[k] = v.i.record(ctx, name)
				return
			}
			errs[k] = v.i.app.askPeerFor(ctx, m.ID, peerRecordPath+"?name="+url.QueryEscape(name), maxRecord, &records[k])
		})
	}
	wg.Wait()
	run.Nodes = run.Nodes[:0]
	for k, m := range members {
		n := api.VerifiedNode{Node: m.ID, Answered: errs[k] == nil}
		switch {
		case errs[k] == nil:
			out = append(out, records[k])
		case ctx.Err() == nil && refusedWith(errs[k], http.StatusServiceUnavailable), errors.Is(errs[k], raftstate.ErrSuperseded):
			lost = true
			n.Error = errs[k].Error()
		default:
			n.Error = errs[k].Error()
		}
		run.Nodes = append(run.Nodes, n)
	}
	for i := range out {
		if out[i].Index != out[0].Index {
			return nil, true, fmt.Errorf("node %s recorded entry %d, node %s entry %d", out[0].Node, out[0].Index, out[i].Node, out[i].Index)
		}
	}
	return out, lost, nil
}

// deep has every node compare what it stores with what was accepted.
func (v *verifier) deep(ctx context.Context, run *api.Verification) {
	request, err := json.Marshal(&run.Request)
	if err != nil {
		return // a request of our own
	}
	path := peerDeepPath + "?" + url.Values{"name": {run.Name}, "request": {string(request)}}.Encode()
	var mu sync.Mutex // guards run.Nodes
	var wg sync.WaitGroup
	for k := range run.Nodes {
		n := &run.Nodes[k]
		if !n.Answered {
			continue
		}
		wg.Go(func() {
			job, err := v.follow(ctx, n.Node, path, run, func(j *deepJob) {
				mu.Lock()
				defer mu.Unlock()
				n.Done, n.All, n.Doing, n.Read = j.Done, j.All, j.Doing, j.Read
				v.show(run)
			})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				n.Error = err.Error()
			case job.Error != "":
				n.Error = job.Error
			}
			if job == nil {
				return
			}
			n.Done, n.All, n.Read, n.Doing = job.Done, job.All, job.Read, ""
			for _, f := range job.Found {
				if len(run.Differences) < maxVerifyFound {
					run.Differences = append(run.Differences, scrub.Difference{
						What: "file", Table: f.Part, Key: f.Place, Odd: []string{n.Node}, Nodes: map[string]string{n.Node: f.Error},
					})
				}
			}
			for _, d := range job.Days {
				if d.Verdict == scrub.Equal {
					n.Equal++
					continue
				}
				n.Days = append(n.Days, d)
				if d.Verdict == scrub.Differs || d.Verdict == scrub.Damaged {
					run.Differences = append(run.Differences, scrub.Difference{
						What: "store", Kind: d.Kind, Day: d.Day, Odd: []string{n.Node},
						Nodes: map[string]string{n.Node: fmt.Sprintf("%s: %d %s", d.Verdict, d.Count, d.Sum), "accepted": fmt.Sprintf("%d %s", d.Want, d.WantSum)},
					})
				}
			}
		})
	}
	wg.Wait()
}

// advance tells a node that reads from one that stands still.
type advance struct {
	began, moved time.Time
	done         int
	read         int64
	doing        string
}

// still fails when the node has not read anything for too long, or reads for too long.
func (a *advance) still(j *deepJob, now time.Time) error {
	if a.began.IsZero() {
		a.began, a.moved = now, now
	}
	if j.Done != a.done || j.Read != a.read || j.Doing != a.doing {
		a.moved, a.done, a.read, a.doing = now, j.Done, j.Read, j.Doing
	}
	switch {
	case now.Sub(a.moved) > deepStalls:
		return fmt.Errorf("it has read nothing for %s (%s, %d of %d days): it is not waited for", deepStalls, a.doing, a.done, j.All)
	case now.Sub(a.began) > deepLongest:
		return fmt.Errorf("it has read for %s (%d of %d days): ask for fewer days or kinds, or raise scrub.verify_rate", deepLongest, a.done, j.All)
	}
	return nil
}

// follow asks a node how far it is until it is done, or does not get on.
func (v *verifier) follow(ctx context.Context, node, path string, run *api.Verification, progress func(*deepJob)) (*deepJob, error) {
	heard := time.Now()
	var at advance
	for {
		var j deepJob
		var err error
		if node == v.i.app.cfg.NodeID {
			var own *deepJob
			if own, err = v.i.jobs.progress(run.Name, run.Request); err == nil {
				j = *own
			}
		} else {
			one, cancel := context.WithTimeout(ctx, deepSilence/3)
			err = v.i.app.askPeerFor(one, node, path, maxRecord, &j)
			cancel()
		}
		switch {
		case err == nil && j.Ended:
			return &j, nil
		case err == nil:
			heard = time.Now()
			progress(&j)
			if err := at.still(&j, heard); err != nil {
				return nil, err
			}
		case time.Since(heard) > deepSilence:
			return nil, fmt.Errorf("it does not answer any more: %w", err)
		}
		wait := time.NewTimer(deepPoll)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, ctx.Err()
		}
	}
}

// deepJob is what a node says of a deep comparison of its own.
type deepJob struct {
	Name  string          `json:"name"`
	Done  int             `json:"done"`
	All   int             `json:"all"`
	Doing string          `json:"doing,omitempty"`
	Read  int64           `json:"read,omitempty"` // bytes
	Ended bool            `json:"ended"`
	Days  []scrub.Day     `json:"days,omitempty"`
	Found []scrub.Finding `json:"found,omitempty"` // damaged places of its files
	Error string          `json:"error,omitempty"`

	asked time.Time
}

// deepJobs holds the newest job of this node.
type deepJobs struct {
	i *integrity

	mu     sync.Mutex
	job    deepJob
	cancel context.CancelFunc
}

// progress begins the job of the name, unless it is there, and returns how far it is. One that nobody asks for any more
// makes room for another.
func (j *deepJobs) progress(name string, r api.VerifyRequest) (*deepJob, error) {
	kinds, err := r.KindList()
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.job.Name != name {
		if j.job.Name != "" && !j.job.Ended && time.Since(j.job.asked) < deepForgotten {
			return nil, errVerifyRuns
		}
		if j.cancel != nil {
			j.cancel()
		}
		var ctx context.Context
		ctx, j.cancel = context.WithTimeout(j.i.app.ctx, deepLongest)
		j.job = deepJob{Name: name}
		j.i.app.work.Go(func() { j.run(ctx, name, scrub.Request{Kinds: kinds, From: r.From, To: r.To}) })
	}
	j.job.asked = time.Now()
	out := j.job
	return &out, nil
}

func (j *deepJobs) run(ctx context.Context, name string, r scrub.Request) {
	set := func(fn func()) {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.job.Name == name {
			fn()
		}
	}
	r.Files = true
	days, found, err := j.i.scrubber.Check(ctx, r, func(p scrub.Progress) {
		set(func() { j.job.Done, j.job.All, j.job.Doing, j.job.Read = p.Done, p.All, p.Doing, p.Bytes })
	})
	set(func() {
		j.job.Days, j.job.Found, j.job.Ended = days, found, true
		if err != nil {
			j.job.Error = err.Error()
		}
	})
}
