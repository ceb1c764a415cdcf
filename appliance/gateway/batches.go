package gateway

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

const (
	maxHello = 4 << 10
	// batchUnfolds is how many times its length decompressed a batch takes until it is proposed: the bytes themselves,
	// lines or samples that point into them, and what is written anew with the labels of the host.
	batchUnfolds = 4
)

type helloRequest struct {
	Epoch string `json:"epoch"`
	Open  bool   `json:"open"`
}

// hello tells an agent where each of its lanes stands, and opens its epoch when asked to.
func (g *Gateway) hello(w http.ResponseWriter, r *http.Request, agent *auth.Agent) error {
	var req helloRequest
	if err := readJSON(w, r, maxHello, &req); err != nil {
		return err
	}
	epoch, err := wire.ParseEpoch(req.Epoch)
	if err != nil {
		return problem.Wrap(http.StatusBadRequest, err)
	}
	ctx := r.Context()
	if err := g.catchUp(ctx); err != nil {
		return err
	}
	lanes, state := g.opts.State.LastSeqs(agent.ID, epoch)
	if state == meta.EpochNew && req.Open {
		index, results, err := g.opts.Cluster.Propose(ctx, command.NewOpenEpoch(agent.ID, epoch))
		if err != nil {
			return err
		}
		switch res := &results[0]; res.Status {
		case command.StatusOK, command.StatusEpochClosed:
		case command.StatusLimit:
			return problem.New(http.StatusUnprocessableEntity, res.Detail)
		default:
			return fmt.Errorf("open epoch: %s %s", res.Status, res.Detail)
		}
		if err := g.opts.Cluster.WaitApplied(ctx, index); err != nil {
			return err
		}
		lanes, state = g.opts.State.LastSeqs(agent.ID, epoch)
	}
	last := make(map[string]uint64, len(wire.Lanes))
	for _, l := range wire.Lanes {
		last[l.String()] = lanes[l]
	}
	return writeJSON(w, map[string]any{
		"epoch_state": epochName(state), "last": last, "server_time_ms": time.Now().UnixMilli(), "nodes": g.agentURLs(),
		"limits": map[string]int{
			"request_bytes": wire.MaxRequestBody, "batches_per_call": wire.MaxBatchesPerCall,
			"batch_bytes": wire.MaxBatchRaw, "series_per_call": wire.MaxSeriesPerCall,
		},
	})
}

func epochName(s meta.EpochState) string {
	switch s {
	case meta.EpochOpen:
		return "open"
	case meta.EpochClosed:
		return "closed"
	}
	return "new"
}

// batchResult is the answer for one batch.
type batchResult struct {
	Lane       string              `json:"lane"`
	Seq        uint64              `json:"seq"`
	Status     string              `json:"status"`
	Expected   uint64              `json:"expected,omitempty"`
	Accepted   uint32              `json:"accepted"`
	Duplicates uint32              `json:"duplicates,omitempty"`
	Rejected   uint32              `json:"rejected,omitempty"`
	Items      []command.ItemError `json:"items,omitempty"`
	UnknownIDs []uint64            `json:"unknown_ids,omitempty"`
	Detail     string              `json:"detail,omitempty"`
}

// batches proposes the batches of one request. A batch that cannot be decoded is answered `invalid` by itself;
// the others go on.
func (g *Gateway) batches(w http.ResponseWriter, r *http.Request, agent *auth.Agent) error {
	if err := wantType(r, wire.ContentType); err != nil {
		return err
	}
	buf := g.buffers.Get().(*[]byte)
	defer g.buffers.Put(buf)
	body, err := readWhole(w, r, wire.MaxRequestBody, (*buf)[:0])
	*buf = body[:0]
	if err != nil {
		return err
	}
	g.met.bytes.Add(float64(len(body)))
	_, batches, err := wire.ReadRequest(agent.ID, body)
	if err != nil {
		return err
	}
	release, err := g.take(r.Context(), g.decoded, unfolded(batches))
	if err != nil {
		return err
	}
	defer release()
	results := make([]batchResult, len(batches))
	cmds := make([]command.Command, 0, len(batches))
	proposed := make([]int, 0, len(batches))
	refused := make([]refusal, len(batches))
	check := checker{gateway: g, agent: agent}
	defer g.opts.Decoded.Forget(batches) // what was not applied here; their bodies are in buf
	for i := range batches {
		results[i] = batchResult{Lane: batches[i].Lane.String(), Seq: batches[i].Seq}
		if err := check.batch(&batches[i], &refused[i]); err != nil {
			results[i].Status, results[i].Detail = command.StatusInvalid.String(), err.Error()
			continue
		}
		cmds = append(cmds, command.NewBatch(batches[i], g.opts.Redactor.Version()))
		proposed = append(proposed, i)
	}
	var index uint64
	if len(cmds) > 0 {
		var outcomes []command.Result
		if index, outcomes, err = g.propose(r.Context(), cmds); err != nil {
			return err
		}
		for k, i := range proposed {
			results[i].take(&outcomes[k])
			refused[i].tell(&results[i])
			if outcomes[k].Status == command.StatusCloned && g.opts.OnCloned != nil {
				g.opts.OnCloned(agent)
			}
		}
	}
	for i := range results {
		g.count(&results[i])
	}
	return writeJSON(w, map[string]any{"index": index, "results": results})
}

// unfolded is what the longest of the batches takes decompressed and decoded. They are decoded one after another, each
// in the memory of the one before.
func unfolded(batches []wire.Batch) int64 {
	longest := 0
	for i := range batches {
		longest = max(longest, batches[i].RawLen)
	}
	return int64(longest) * batchUnfolds
}

func (b *batchResult) take(r *command.Result) {
	b.Status, b.Expected, b.Detail = r.Status.String(), r.Expected, r.Detail
	b.Accepted, b.Duplicates, b.Rejected = r.Accepted, r.Duplicates, r.Rejected
	b.Items = r.Items
	if r.Status == command.StatusUnknownIDs {
		b.UnknownIDs = r.IDs
	}
}

func (g *Gateway) count(r *batchResult) {
	g.met.batches.WithLabelValues(r.Lane, r.Status).Inc()
	g.met.samples.WithLabelValues(r.Lane, "accepted").Add(float64(r.Accepted))
	g.met.samples.WithLabelValues(r.Lane, "duplicate").Add(float64(r.Duplicates))
	g.met.samples.WithLabelValues(r.Lane, "rejected").Add(float64(r.Rejected))
}

// checker checks the batches of one request, using its memory again from one to the next but for what is kept in Options.Decoded.
type checker struct {
	gateway *Gateway
	agent   *auth.Agent
	raw     []byte
	metrics wire.MetricsBody
}

// batch decodes b to see that everything in it is well formed, makes the labels of its streams say whose they are, and
// masks the secrets in its lines. It changes the body only when it must. The identity stays as it is: its hash is over
// what lies in the agent's spool, so a repeat is the same batch whatever a node masks. Streams that cannot be taken are left out and noted in r: they
// hold lines of one source, and the other sources in the batch have done nothing wrong.
func (c *checker) batch(b *wire.Batch, r *refusal) error {
	var err error
	if c.raw, err = c.gateway.opts.Coder.Decompress(c.raw[:0], b); err != nil {
		return err
	}
	if b.Lane.CarriesMetrics() {
		return c.metrics.Decode(c.raw)
	}
	logs, err := wire.DecodeLogs(c.raw)
	if err != nil {
		return err
	}
	changed := false
	kept := logs.Streams[:0]
	for i := range logs.Streams {
		s := logs.Streams[i]
		labelled, err := c.stream(b.Lane, &s)
		if err != nil {
			r.leaveOut(len(s.Lines), fmt.Sprintf("stream %d: %v", i, err))
			changed = true
			continue
		}
		r.keep(len(s.Lines))
		masked := c.gateway.opts.Redactor.Stream(&s)
		changed = changed || labelled || masked
		kept = append(kept, s)
	}
	logs.Streams = kept
	if changed {
		raw := wire.AppendLogs(make([]byte, 0, len(c.raw)+64*len(logs.Streams)), logs)
		if len(raw) > wire.MaxBatchRaw {
			return fmt.Errorf("batch has %d bytes with the labels of its host, at most %d are allowed", len(raw), wire.MaxBatchRaw)
		}
		b.RawLen = len(raw)
		b.Codec, b.Body = c.gateway.opts.Coder.CompressLogs(nil, raw)
	} else if c.gateway.opts.Decoded.Keep(b, logs) {
		c.raw = nil // lines point into it
	}
	return nil
}

// stream makes the labels of s say whose it is, and reports whether they did not yet.
func (c *checker) stream(lane wire.Lane, s *wire.LogStream) (changed bool, err error) {
	if s.Kind != streamKind(lane) {
		return false, fmt.Errorf("kind %d does not belong in the lane %s", s.Kind, lane)
	}
	if s.Labels.Get("agent") != c.agent.ID || s.Labels.Get("host") != c.agent.Hostname {
		s.Labels = s.Labels.With("agent", c.agent.ID).With("host", c.agent.Hostname)
		changed = true
	}
	if from := s.Labels.Get("source"); s.Kind == wire.StreamEvent && (from == "cluster" || from == "alerts") {
		s.Labels = s.Labels.With("source", "agent") // rules go by what the cluster itself tells
		changed = true
	}
	return changed, wire.CheckStreamLabels(s.Labels)
}

// refusal is what the checker left out of a batch. Items are counted as the sender counts them.
type refusal struct {
	result command.Result // Rejected and Items
	cuts   []cut
	kept   int // lines
}

// cut says that before line at of what was kept, n lines were left out.
type cut struct{ at, n int }

func (r *refusal) keep(n int) { r.kept += n }

func (r *refusal) leaveOut(n int, reason string) {
	from := r.kept + int(r.result.Rejected)
	for k := range n {
		r.result.Refuse(from+k, reason)
	}
	r.cuts = append(r.cuts, cut{r.kept, n})
}

// tell adds to the answer for a batch what was left out of it, once the rest is held.
func (r *refusal) tell(b *batchResult) {
	if len(r.cuts) == 0 || b.Status != command.StatusOK.String() && b.Status != command.StatusDuplicate.String() {
		return
	}
	items := slices.Clone(r.result.Items)
	for _, it := range b.Items {
		shift := 0
		for _, c := range r.cuts {
			if c.at <= int(it.Item) {
				shift += c.n
			}
		}
		items = append(items, command.ItemError{Item: it.Item + uint32(shift), Reason: it.Reason})
	}
	slices.SortFunc(items, func(a, b command.ItemError) int { return cmp.Compare(a.Item, b.Item) })
	b.Items = items[:min(len(items), command.MaxItemErrors)]
	b.Rejected += r.result.Rejected
}

func streamKind(l wire.Lane) wire.StreamKind {
	if l == wire.LaneEvents {
		return wire.StreamEvent
	}
	return wire.StreamLog
}
