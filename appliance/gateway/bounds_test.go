package gateway

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/machine"
)

// until tries until it is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not in time", what)
		case <-tick.C:
		}
	}
}

// A body that is still on its way holds its share of the budget: whoever comes beyond it is told to wait, whatever the
// route, and is served once there is room.
func TestBodiesUnderWayPushBack(t *testing.T) {
	r := newRigWith(t, func(o *Options) { o.BytesInFlight, o.Timeout = 1<<20, 5*time.Minute })
	epoch := wire.Epoch{1}
	r.register(epoch)
	const slow = `{"series":[{"__name__":"up"}]}`
	body, feed := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/agent/series", body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 200 << 10 // unfolded it is more than all there is
	req.Header.Set("Content-Type", "application/json")
	answered := make(chan int, 1)
	go func() {
		resp, err := r.client().Do(req)
		if err != nil {
			answered <- 0
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	// Nothing may be sent meanwhile: what is under way when the slow body comes would have that one refused.
	until(t, "the budget is used up", func() bool {
		b := r.gateway.bodies
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.left == 0
	})
	hello := fmt.Appendf(nil, `{"epoch":%q}`, epoch)
	for path, send := range map[string][]byte{
		"/v1/agent/hello": hello, "/v1/agent/series": []byte(slow), "/v1/agent/heartbeat": []byte(`{}`),
		"/v1/agent/enroll":  []byte(`{"token":"x","hostname":"h","csr_pem":"x"}`),
		"/v1/agent/batches": wire.AppendRequest(nil, epoch, []wire.Batch{r.batch(wire.LaneLogs, epoch, 1, logsBody("x"))}),
	} {
		kind := "application/json"
		if strings.HasSuffix(path, "batches") {
			kind = wire.ContentType
		}
		code, h, b := r.post(path, kind, send)
		if code != http.StatusTooManyRequests || h.Get("Retry-After") != "1" || h.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s beyond the budget: %d %v %s", path, code, h, b)
		}
	}
	if _, err := io.WriteString(feed, slow+strings.Repeat(" ", 200<<10-len(slow))); err != nil {
		t.Error(err)
	}
	feed.Close()
	if code := <-answered; code != http.StatusOK {
		t.Errorf("the slow body: %d", code)
	}
	if code, _, b := r.post("/v1/agent/hello", "application/json", hello); code != http.StatusOK {
		t.Errorf("after it: %d %s", code, b)
	}
}

// What a batch unfolds to is charged too, and a request with nothing but headers takes nothing.
func TestBatchesAreChargedDecoded(t *testing.T) {
	if n := unfolded([]wire.Batch{{RawLen: 10}, {RawLen: 300}, {RawLen: 20}}); n != 300*batchUnfolds {
		t.Error(n)
	}
	for length, want := range map[int64]int64{0: 0, 10: 40, 1000: 400, -1: 400} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.ContentLength = length
		if got := (bodyCost{100, 4}).of(r); got != want {
			t.Errorf("%d bytes: %d, want %d", length, got, want)
		}
	}
}

// Too many registrations are refused before anything of their bodies is read.
func TestStrangersAreRefusedUnread(t *testing.T) {
	r := newRigWith(t, func(o *Options) { o.RegisterRate = 1e-9 })
	var last int
	for range 3 {
		last, _, _ = r.post("/v1/agent/enroll", "application/json", []byte("garbage"))
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("%d", last)
	}
}

func TestSeriesAreCountedAsTheyCome(t *testing.T) {
	r := newRig(t)
	r.register(wire.Epoch{1})
	many := `{"series":[` + strings.Repeat(`{"__name__":"x"},`, wire.MaxSeriesPerCall)
	var wide strings.Builder
	for i := range wire.MaxLabels + 1 {
		fmt.Fprintf(&wide, `"l%d":"x",`, i)
	}
	for name, c := range map[string]struct{ body, says string }{
		"too many sets, and never an end": {many + `{"__name__":"x"}`, "more than 2000"},
		"too many labels, no end":         {`{"series":[{` + wide.String(), "more than 64 labels"},
		"number":                          {`{"series":[{"__name__":5}]}`, "no text"},
		"nested":                          {`{"series":[{"__name__":{"a":"b"}}]}`, "no text"},
		"not closed":                      {`{"series":[{"__name__":"x"}]`, "not the JSON"},
		"two values":                      {`{"series":[{"__name__":"x"}]} {}`, "something follows"},
		"array":                           {`[]`, "not the JSON"},
		"no list":                         {`{"series":{}}`, "not the JSON"},
	} {
		code, h, b := r.post("/v1/agent/series", "application/json", []byte(c.body))
		if code != http.StatusBadRequest || !strings.Contains(string(b), c.says) || h.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", name, code, b)
		}
	}
	var got struct{ IDs []uint64 }
	r.json("/v1/agent/series", json.RawMessage(`{"new":[{"a":[1,{"b":null}]},2],"series":[{"__name__":"x","b":null,"a":"1"},{"__name__":"x","a":"1"}],"z":1}`), &got)
	if len(got.IDs) != 2 || got.IDs[0] != got.IDs[1] {
		t.Errorf("%+v", got)
	}
}

// What does not fit into one entry goes in several: a request as long as hello says, and as many series as it says.
func TestRequestsMayBeLongerThanAnEntry(t *testing.T) {
	r := newRig(t)
	epoch := wire.Epoch{1}
	r.register(epoch)
	junk := make([]byte, 200<<10)
	var batches []wire.Batch
	for seq := range uint64(19) {
		_, _ = rand.Read(junk) // never fails; it does not compress
		batches = append(batches, r.batch(wire.LaneLogs, epoch, seq+1, wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{
			Kind: wire.StreamLog, Labels: wire.Labels{{Name: "file", Value: "/x"}},
			Lines: []wire.LogLine{{T: time.Now().UnixNano(), Text: junk}},
		}}})))
	}
	if n := len(wire.AppendRequest(nil, epoch, batches)); n < 3<<20 || n > wire.MaxRequestBody {
		t.Fatalf("the request has %d bytes", n)
	}
	for _, want := range []string{"ok", "duplicate"} {
		for i, res := range r.send(epoch, batches...) {
			if res.Status != want || res.Seq != uint64(i+1) {
				t.Fatalf("batch %d: %+v, want %s", i, res, want)
			}
		}
	}
	sets := make([]map[string]string, wire.MaxSeriesPerCall)
	for i := range sets {
		sets[i] = map[string]string{"__name__": "x", "i": fmt.Sprint(i), "pad": strings.Repeat("p", 1500)}
	}
	var got struct{ IDs []uint64 }
	r.json("/v1/agent/series", map[string]any{"series": sets}, &got)
	seen := map[uint64]bool{}
	for _, id := range got.IDs {
		seen[id] = true
	}
	if len(seen) != len(sets) {
		t.Errorf("%d different ids for %d series", len(seen), len(sets))
	}
}

// What fails on our side is in the node's log, with route, agent and cause, and the sender is told no more than that.
func TestFailuresAreLogged(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	w := writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	})
	r := newRigWith(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(w, nil)) })
	epoch := wire.Epoch{1}
	r.register(epoch)
	r.cluster.mu.Lock()
	r.cluster.fail = errors.New("the disk said ENOTSUP")
	r.cluster.mu.Unlock()
	hello := fmt.Appendf(nil, `{"epoch":%q}`, epoch)
	for range 100 {
		if code, _, _ := r.post("/v1/agent/hello", "application/json", hello); code != http.StatusInternalServerError {
			t.Fatal(code)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	id := r.agent
	text := log.String()
	if !strings.Contains(text, "the disk said ENOTSUP") || !strings.Contains(text, "route=hello") || !strings.Contains(text, "agent="+id) {
		t.Errorf("%s", text)
	}
	if n := strings.Count(text, "request of an agent failed"); n > 40 {
		t.Errorf("%d lines for 100 failures", n)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// An agent that used up its epochs is told so, and not to try again in vain.
func TestTooManyEpochs(t *testing.T) {
	r := newRig(t)
	r.register(wire.Epoch{1})
	most := machine.DefaultLimits().ClosedEpochs
	for i := range most + 2 {
		epoch := wire.Epoch{2, byte(i), byte(i >> 8)}
		code, _, b := r.post("/v1/agent/hello", "application/json", fmt.Appendf(nil, `{"epoch":%q,"open":true}`, epoch))
		if code == http.StatusOK && i < most {
			continue
		}
		if code != http.StatusUnprocessableEntity || !strings.Contains(string(b), "epochs") {
			t.Errorf("epoch %d: %d %s", i, code, b)
		}
		return
	}
}

// A body that stops coming is the network's fault and not the agent's: 408, so that the agent tries again.
func TestSlowBodiesTimeOut(t *testing.T) {
	r := newRig(t)
	r.register(wire.Epoch{1})
	srv := r.server(r.handler, func(s *http.Server) { s.ReadTimeout = 2 * time.Second }) // the handshake on a busy machine is within it too
	for path, kind := range map[string]string{"/v1/agent/batches": wire.ContentType, "/v1/agent/hello": "application/json", "/v1/agent/series": "application/json"} {
		body, feed := io.Pipe()
		go func() { _, _ = io.WriteString(feed, `{"s`) }()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = 1000
		req.Header.Set("Content-Type", kind)
		resp, err := r.client().Do(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		said, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		feed.Close()
		if resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%s: %s %s", path, resp.Status, said)
		}
	}
}

// One connection cannot open as many requests as it likes.
func TestStreamsOfAConnectionAreBounded(t *testing.T) {
	s := NewServer(http.NotFoundHandler(), time.Second, slog.New(slog.DiscardHandler))
	if s.HTTP2 == nil || s.HTTP2.MaxConcurrentStreams != maxStreams {
		t.Errorf("%+v", s.HTTP2)
	}
}
