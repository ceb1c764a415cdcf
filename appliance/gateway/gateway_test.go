package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/agentconfig"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

// direct is a cluster of one without a log: the real state machine, applied at once.
type direct struct {
	mu    sync.Mutex
	store *meta.Store
	m     *machine.Machine
	index uint64
	fail  error
}

func (d *direct) Propose(_ context.Context, cmds ...command.Command) (uint64, []command.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return 0, nil, d.fail
	}
	d.index++
	size := command.Overhead
	for i := range cmds {
		size += cmds[i].Size()
	}
	if size > command.MaxEntry || len(cmds) > command.MaxCommands {
		return 0, nil, errTooLarge
	}
	e := command.Entry{Stamp: time.Now().UnixMilli(), Commands: cmds}
	decoded, err := command.Decode(e.Append(nil))
	if err != nil {
		return 0, nil, err
	}
	var g machine.Group
	g.Reset()
	results, err := d.m.Apply(d.index, 1, decoded, &g)
	if err != nil {
		return 0, nil, err
	}
	g.HashShard(0, 1)
	d.m.Finish(&g)
	return d.index, results, nil
}

func (d *direct) ReadIndex(context.Context) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.index, d.fail
}

func (d *direct) WaitApplied(context.Context, uint64) error { return nil }

// asMeta lets auth use the same state.
type asMeta struct{ d *direct }

func (a asMeta) Get(bucket, key string) (auth.Value, bool) {
	v, ok := a.d.store.Get(bucket, key)
	return auth.Value{Data: v.Data, ModIndex: v.ModIndex}, ok
}

func (a asMeta) Scan(bucket, prefix string, fn func(string, auth.Value) bool) {
	a.d.store.Scan(bucket, prefix, func(k string, v meta.Value) bool {
		return fn(k, auth.Value{Data: v.Data, ModIndex: v.ModIndex})
	})
}

func (a asMeta) LogTime() int64 { return a.d.store.LogTime() }

func (a asMeta) Commit(ctx context.Context, txn auth.Txn) (uint64, error) {
	var t command.Txn
	for _, c := range txn.Compares {
		t.Compares = append(t.Compares, command.Compare(c))
	}
	for _, o := range txn.Ops {
		t.Ops = append(t.Ops, command.Op(o))
	}
	index, results, err := a.d.Propose(ctx, command.NewMetaTxn(t))
	if err != nil {
		return 0, err
	}
	if results[0].Status == command.StatusConflict {
		return 0, auth.ErrConflict
	}
	return index, nil
}

type rig struct {
	t       *testing.T
	cluster *direct
	auth    *auth.Service
	url     string
	agent   string // id
	certs   *agentCA
	gateway *Gateway
	pool    *x509.CertPool
	cert    tls.Certificate // of the agent
	coder   *wire.Coder
	handler http.Handler
}

var (
	errNoLeader = errors.New("no leader")
	errTooLarge = errors.New("proposal is too large for one entry") // as raftstate refuses it
)

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigWith(t, func(*Options) {})
}

func newRigWith(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	store, err := meta.Open(filepath.Join(t.TempDir(), "meta.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	coder, err := wire.NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	d := &direct{store: store, m: machine.New(store, coder, machine.DefaultLimits())}
	if _, _, err := d.Propose(t.Context(), command.NewTick("n1")); err != nil {
		t.Fatal(err)
	}
	svc := auth.New(auth.Config{Meta: asMeta{d}})
	t.Cleanup(func() { _ = svc.Close() })
	opts := Options{
		Configs: agentconfig.New(asMeta{d}), Cluster: d, State: store, Auth: svc, Coder: coder, ClusterID: "c1", Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Timeout: time.Minute, BytesInFlight: 64 << 20, RegisterRate: 1000,
		Problem: func(err error) *problem.Problem {
			if errors.Is(err, errNoLeader) {
				return problem.Wrap(http.StatusServiceUnavailable, err).WithRetryAfter(time.Second)
			}
			return problem.From(err)
		},
	}
	certs := newAgentCA(t)
	opts.Certificates, opts.NodeCA = certs, []byte("PEM of the nodes' CA")
	change(&opts)
	g := New(opts)
	t.Cleanup(func() { _ = g.Close() })
	handler := g.Handler()
	r := &rig{t: t, cluster: d, auth: svc, coder: coder, handler: handler, gateway: g, certs: certs}
	srv := r.server(handler)
	r.url, r.pool = srv.URL, srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	return r
}

func (r *rig) post(path, contentType string, body []byte) (int, http.Header, []byte) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := r.client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b
}

func (r *rig) json(path string, req, answer any) {
	r.t.Helper()
	b, err := json.Marshal(req)
	if err != nil {
		r.t.Fatal(err)
	}
	code, _, out := r.post(path, "application/json", b)
	if code != http.StatusOK {
		r.t.Fatalf("%s: %d %s", path, code, out)
	}
	if err := json.Unmarshal(out, answer); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) token(uses int) string {
	r.t.Helper()
	token, _, err := r.auth.CreateJoinToken(r.t.Context(), auth.JoinOptions{Kind: auth.JoinAgent, Uses: uses})
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// register makes the rig an agent with an open epoch.
func (r *rig) register(epoch wire.Epoch) {
	r.t.Helper()
	r.enroll(r.token(1))
	var hello struct {
		State string            `json:"epoch_state"`
		Last  map[string]uint64 `json:"last"`
	}
	r.json("/v1/agent/hello", map[string]any{"epoch": epoch.String()}, &hello)
	if hello.State != "new" {
		r.t.Fatalf("state %q before opening", hello.State)
	}
	r.json("/v1/agent/hello", map[string]any{"epoch": epoch.String(), "open": true}, &hello)
	if hello.State != "open" || len(hello.Last) != len(wire.Lanes) {
		r.t.Fatalf("hello %+v", hello)
	}
}

func (r *rig) batch(lane wire.Lane, epoch wire.Epoch, seq uint64, raw []byte) wire.Batch {
	b := wire.Batch{Identity: wire.Identity{Epoch: epoch, Lane: lane, Seq: seq, Hash: wire.HashContent(raw)}, RawLen: len(raw)}
	b.Codec, b.Body = r.coder.Compress(nil, raw)
	return b
}

func (r *rig) send(epoch wire.Epoch, batches ...wire.Batch) []batchResult {
	r.t.Helper()
	code, _, out := r.post("/v1/agent/batches", wire.ContentType, wire.AppendRequest(nil, epoch, batches))
	if code != http.StatusOK {
		r.t.Fatalf("batches: %d %s", code, out)
	}
	var answer struct{ Results []batchResult }
	if err := json.Unmarshal(out, &answer); err != nil {
		r.t.Fatal(err)
	}
	return answer.Results
}

func logsBody(text string) []byte {
	return wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{
		Kind: wire.StreamLog, Labels: wire.Labels{{Name: "file", Value: "/var/log/x"}},
		Lines: []wire.LogLine{{T: time.Now().UnixNano(), Text: []byte(text)}},
	}}})
}

func TestAgentLife(t *testing.T) {
	r := newRig(t)
	epoch := wire.Epoch{1}
	r.register(epoch)
	var ids struct{ IDs []uint64 }
	r.json("/v1/agent/series", map[string]any{"series": []map[string]string{
		{"__name__": "up", "agent": "somebody else"}, {"__name__": "load1"},
	}}, &ids)
	if len(ids.IDs) != 2 {
		t.Fatalf("ids %v", ids.IDs)
	}
	id := r.agent
	labels, ok := r.cluster.store.SeriesLabels(ids.IDs[0])
	if !ok || labels.Get("agent") != id || labels.Get("host") != "h1" || labels.Get("job") != "node" {
		t.Errorf("labels %v", labels)
	}
	now := time.Now().UnixMilli()
	metrics := wire.AppendMetrics(nil, []wire.Scrape{{T: now, IDs: ids.IDs, Values: []float64{1, 0.5}}})
	first := []wire.Batch{r.batch(wire.LaneMetrics, epoch, 1, metrics), r.batch(wire.LaneLogs, epoch, 1, logsBody("hello"))}
	for round, want := range []string{"ok", "duplicate"} {
		res := r.send(epoch, first...)
		if res[0].Status != want || res[1].Status != want {
			t.Errorf("round %d: %+v, want %s", round, res, want)
		}
		if round == 0 && (res[0].Accepted != 2 || res[1].Accepted != 1) {
			t.Errorf("accepted %+v", res)
		}
	}
	if res := r.send(epoch, r.batch(wire.LaneLogs, epoch, 5, logsBody("too early"))); res[0].Status != "gap" || res[0].Expected != 2 {
		t.Errorf("gap: %+v", res)
	}
	if res := r.send(epoch, r.batch(wire.LaneLogs, epoch, 1, logsBody("other content"))); res[0].Status != "cloned" {
		t.Errorf("clone: %+v", res)
	}
	strange := wire.AppendMetrics(nil, []wire.Scrape{{T: now + 1, IDs: []uint64{ids.IDs[0], 999_999}, Values: []float64{1, 2}}})
	if res := r.send(epoch, r.batch(wire.LaneMetrics, epoch, 2, strange)); res[0].Status != "unknown_ids" || len(res[0].UnknownIDs) != 1 {
		t.Errorf("unknown ids: %+v", res)
	}
	other := wire.Epoch{2}
	if res := r.send(other, r.batch(wire.LaneMetrics, other, 1, metrics)); res[0].Status != "unknown_epoch" {
		t.Errorf("unknown epoch: %+v", res)
	}
	// A bad batch does not take its neighbours along.
	bad := r.batch(wire.LaneLogs, epoch, 2, []byte("garbage"))
	res := r.send(epoch, bad, r.batch(wire.LaneMetrics, epoch, 2, wire.AppendMetrics(nil, []wire.Scrape{{T: now + 1000, IDs: ids.IDs, Values: []float64{1, 2}}})))
	if res[0].Status != "invalid" || res[0].Detail == "" || res[1].Status != "ok" {
		t.Errorf("bad batch: %+v", res)
	}
}

func TestTokenForOneMakesOne(t *testing.T) {
	r := newRig(t)
	token := r.token(1)
	csr, _ := newRequest(t)
	body, _ := json.Marshal(map[string]string{"token": token, "hostname": "h", "csr_pem": csr})
	client := r.client()
	codes := make(chan int, 20)
	for range cap(codes) {
		go func() {
			resp, err := client.Post(r.url+"/agent/register", "application/json", bytes.NewReader(body))
			if err != nil {
				codes <- 0
				return
			}
			resp.Body.Close()
			codes <- resp.StatusCode
		}()
	}
	count := map[int]int{}
	for range cap(codes) {
		count[<-codes]++
	}
	if count[http.StatusOK] != 1 || count[http.StatusUnauthorized] != cap(codes)-1 {
		t.Errorf("answers by status: %v", count)
	}
}

func TestHostileRequests(t *testing.T) {
	r := newRig(t)
	epoch := wire.Epoch{1}
	const jsonType = "application/json"
	for _, path := range []string{"/v1/agent/hello", "/v1/agent/series", "/v1/agent/batches", "/v1/agent/heartbeat", "/agent/heartbeat"} {
		if code, _, body := r.post(path, jsonType, []byte(`{}`)); code != http.StatusUnauthorized {
			t.Errorf("%s without credentials: %d %s", path, code, body)
		}
	}
	if code, _, _ := r.post("/v1/agent/enroll", jsonType, []byte(`{"token":"wrong","hostname":"h","csr_pem":"x"}`)); code != http.StatusUnauthorized {
		t.Errorf("wrong token: %d", code)
	}
	r.register(epoch)
	huge := bytes.Repeat([]byte("x"), wire.MaxRequestBody+1)
	bomb := wire.Batch{Identity: wire.Identity{Epoch: epoch, Lane: wire.LaneLogs, Seq: 1}, RawLen: wire.MaxBatchRaw}
	bomb.Codec, bomb.Body = r.coder.Compress(nil, make([]byte, 64<<20))
	if res := r.send(epoch, bomb); res[0].Status != "invalid" {
		t.Errorf("bomb: %+v", res)
	}
	for _, c := range []struct {
		name, path, contentType string
		body                    []byte
		want                    int
	}{
		{"garbage", "/v1/agent/batches", wire.ContentType, []byte("garbage"), 400},
		{"empty", "/v1/agent/batches", wire.ContentType, nil, 400},
		{"wrong type", "/v1/agent/batches", jsonType, []byte("{}"), 415},
		{"oversized", "/v1/agent/batches", wire.ContentType, huge, 413},
		{"truncated", "/v1/agent/batches", wire.ContentType, wire.AppendRequest(nil, epoch, []wire.Batch{r.batch(wire.LaneLogs, epoch, 1, logsBody("x"))})[:40], 400},
		{"no JSON", "/v1/agent/hello", jsonType, []byte("garbage"), 400},
		{"wrong JSON type", "/v1/agent/hello", jsonType, []byte(`{"epoch":5}`), 400},
		{"short epoch", "/v1/agent/hello", jsonType, []byte(`{"epoch":"ab"}`), 400},
		{"two values", "/v1/agent/hello", jsonType, []byte(`{} {}`), 400},
		{"no series", "/v1/agent/series", jsonType, []byte(`{"series":[]}`), 400},
		{"null series", "/v1/agent/series", jsonType, []byte(`{"series":[null]}`), 400},
		{"nameless series", "/v1/agent/series", jsonType, []byte(`{"series":[{"a":"b"}]}`), 400},
		{"array heartbeat", "/v1/agent/heartbeat", jsonType, []byte(`[]`), 400},
		{"oversized heartbeat", "/v1/agent/heartbeat", jsonType, append([]byte(`{"a":"`), huge...), 413},
		{"oversized registration", "/v1/agent/enroll", jsonType, append([]byte(`{"token":"`), huge...), 413},
		{"bad address", "/v1/agent/enroll", jsonType, []byte(`{"token":"t","hostname":"h","csr_pem":"x","ips":["nowhere"]}`), 400},
		{"browser", "/", jsonType, nil, 404},
	} {
		code, h, body := r.post(c.path, c.contentType, c.body)
		var p problem.Problem
		if code != c.want || h.Get("Content-Type") != "application/problem+json" || json.Unmarshal(body, &p) != nil || p.Detail == "" {
			t.Errorf("%s: %d %s %s, want %d with a problem document", c.name, code, h.Get("Content-Type"), body, c.want)
		}
	}
	r.cluster.fail = errNoLeader
	code, h, body := r.post("/v1/agent/batches", wire.ContentType, wire.AppendRequest(nil, epoch, []wire.Batch{r.batch(wire.LaneLogs, epoch, 1, logsBody("x"))}))
	if code != http.StatusServiceUnavailable || h.Get("Retry-After") != "1" {
		t.Errorf("without a leader: %d %v %s", code, h, body)
	}
}
