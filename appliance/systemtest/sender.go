package systemtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/triward/triward/agent/wire"
)

// sender speaks the agents' protocol as an agent would, and writes down what the cluster answered. It sends one
// batch of each lane at a time and repeats it, at any node, until it is answered; now and then it repeats a
// batch that was answered already, as a sender does whose acknowledgement was lost.
type sender struct {
	name    string
	nodes   []string // agent URLs
	http    *http.Client
	coder   *wire.Coder
	agent   string
	tls     *tls.Config
	epoch   wire.Epoch
	series  []uint64
	base    int64 // milliseconds; batch seq has the time base + seq*stepMs
	ledger  *ledger
	padding int // bytes that make each line longer; such a sender is not compared with the ledger
	// lines are those of a batch, linesPerBatch when 0, dealt out to so many files, one when 0. With linesOnly nothing else is
	// sent, no metrics and no line of the future.
	lines, files int
	linesOnly    bool
	// repeats is after how many batches one is delivered once more; 0: after repeatEvery, less: never. One that is set goes
	// on at the node that it used before.
	repeats int
	node    int
	lastAck time.Time
	held    sync.RWMutex // locked while nothing new is to be sent

	mu       sync.Mutex
	longest  time.Duration // longest time between two acknowledgements
	acks     int
	failures int
	absorbed int   // batches that were answered as duplicates after a try that got no answer
	ended    error // why run returned
}

const (
	seriesPerSender = 8
	linesPerBatch   = 5
	stepMs          = 100
	repeatEvery     = 5
	aheadMs         = 3 * 3600 * 1000 // base is an hour ago
)

func newSender(name string, nodes []string, tlsConf *tls.Config, l *ledger) (*sender, error) {
	coder, err := wire.NewCoder()
	if err != nil {
		return nil, err
	}
	s := &sender{
		name: name, nodes: nodes, coder: coder, ledger: l, tls: tlsConf,
		base: time.Now().Add(-time.Hour).UnixMilli() / 1000 * 1000,
	}
	s.useTLS(tlsConf)
	_, _ = rand.Read(s.epoch[:]) // never fails
	return s, nil
}

func (s *sender) useTLS(conf *tls.Config) {
	s.http = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}}
}

// enroll redeems the token for a certificate and shows it from then on.
func (s *sender) enroll(ctx context.Context, token string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	var got struct {
		AgentID string `json:"agent_id"`
		Cert    string `json:"cert_pem"`
	}
	if err := s.retry(ctx, "/v1/agent/enroll", map[string]any{"token": token, "hostname": s.name, "csr_pem": string(csr)}, &got); err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(got.Cert))
	if block == nil {
		return fmt.Errorf("enroll %s: the answer holds no certificate", s.name)
	}
	conf := s.tls.Clone()
	conf.Certificates = []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: key}}
	s.agent = got.AgentID
	s.useTLS(conf)
	return nil
}

// labels are those that an agent gives its streams itself.
func (s *sender) labels() wire.Labels {
	return wire.Labels{{Name: "agent", Value: s.agent}, {Name: "host", Value: s.name}}
}

// register redeems the token, opens the epoch and registers that many series.
func (s *sender) register(ctx context.Context, token string, columns int) error {
	if err := s.enroll(ctx, token); err != nil {
		return err
	}
	var hello struct {
		EpochState string `json:"epoch_state"`
	}
	if err := s.retry(ctx, "/v1/agent/hello", map[string]any{"epoch": s.epoch.String(), "open": true}, &hello); err != nil {
		return err
	}
	if hello.EpochState != "open" {
		return fmt.Errorf("epoch of %s is %q after hello", s.name, hello.EpochState)
	}
	series := make([]map[string]string, columns)
	for i := range series {
		series[i] = map[string]string{"__name__": "ledger_seq", "sender": s.name, "column": fmt.Sprint(i)}
	}
	var ids struct {
		IDs []uint64 `json:"ids"`
	}
	if err := s.retry(ctx, "/v1/agent/series", map[string]any{"series": series}, &ids); err != nil {
		return err
	}
	if len(ids.IDs) != columns {
		return fmt.Errorf("%d series ids, want %d", len(ids.IDs), columns)
	}
	s.series = ids.IDs
	return nil
}

// errForgotten says that the cluster asks for what it acknowledged: no way to go on is right after that.
var errForgotten = errors.New("the cluster asks again for batches that it acknowledged")

// run sends until ctx ends, from behind what was acknowledged. A batch that ctx cuts off is left `unknown` in the ledger.
func (s *sender) run(ctx context.Context, pace time.Duration) (err error) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = err
	}()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	s.lastAck = time.Now()
	for seq := s.ledger.of(s.name).acked + 1; ; seq++ {
		if err := s.step(ctx, seq); err != nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// step delivers the batches of one sequence and writes down that they were acknowledged.
func (s *sender) step(ctx context.Context, seq uint64) error {
	s.held.RLock()
	defer s.held.RUnlock()
	var batches []wire.Batch
	if !s.linesOnly {
		batches = append(batches, s.metricsBatch(seq))
	}
	batches = append(batches, s.logsBatch(seq))
	s.ledger.sent(s.name, seq)
	if err := s.deliver(ctx, batches); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%s batch %d: %w", s.name, seq, err)
	}
	if err := s.ledger.acknowledged(s.name, seq); err != nil {
		return err
	}
	s.noteAck()
	if n := cmp.Or(s.repeats, repeatEvery); n > 0 && seq%uint64(n) == 0 {
		at := s.node
		s.node++
		if err := s.deliver(ctx, batches); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s repeat of batch %d: %w", s.name, seq, err)
		}
		if s.repeats > 0 {
			s.node = at
		}
	}
	return nil
}

func (s *sender) noteAck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.longest = max(s.longest, now.Sub(s.lastAck))
	s.lastAck = now
	s.acks++
}

func (s *sender) noteAbsorbed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.absorbed++
}

// takeLongest returns the longest gap between acknowledgements since the last call.
func (s *sender) takeLongest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := max(s.longest, time.Since(s.lastAck))
	s.longest = 0
	return d
}

func (s *sender) metricsBatch(seq uint64) wire.Batch {
	sc := wire.Scrape{T: s.base + int64(seq)*stepMs, IDs: s.series, Values: make([]float64, len(s.series))}
	for i := range sc.Values {
		sc.Values[i] = float64(seq)
	}
	return s.batch(wire.LaneMetrics, seq, wire.AppendMetrics(nil, []wire.Scrape{sc}))
}

func (s *sender) logsBatch(seq uint64) wire.Batch {
	streams := make([]wire.LogStream, max(1, s.files))
	for k := range streams {
		file := "/ledger/" + s.name
		if k > 0 {
			file += fmt.Sprintf(".%d", k)
		}
		streams[k] = wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "file", Value: file}, {Name: "source", Value: "file"}}}
	}
	for i := range s.linesOfBatch() {
		st := &streams[i%len(streams)]
		st.Lines = append(st.Lines, wire.LogLine{T: (s.base+int64(seq)*stepMs)*1e6 + int64(i), Severity: wire.SeverityInfo, Text: append([]byte(ledgerLine(s.name, seq, i)), junk(s.padding)...)})
	}
	if st := &streams[0]; !s.linesOnly { // a line that claims to be of the future is moved to the present, which must be the same one on all nodes
		st.Lines = append(st.Lines, wire.LogLine{T: (s.base + int64(seq)*stepMs + aheadMs) * 1e6, Severity: wire.SeverityInfo, Text: fmt.Appendf(nil, "ahead of its time, sender=%s seq=%d", s.name, seq)})
	}
	return s.batch(wire.LaneLogs, seq, wire.AppendLogs(nil, &wire.LogBatch{Streams: streams}))
}

func (s *sender) linesOfBatch() int { return cmp.Or(s.lines, linesPerBatch) }

// junk returns n bytes of text that do not compress to nothing.
func junk(n int) []byte {
	b := make([]byte, n/2)
	_, _ = rand.Read(b) // never fails
	return hex.AppendEncode(nil, b)
}

func ledgerLine(name string, seq uint64, i int) string {
	text := fmt.Sprintf("ledgerline sender=%s seq=%d line=%d", name, seq, i)
	return fmt.Sprintf("%s crc=%08x", text, crc32.ChecksumIEEE([]byte(text)))
}

func (s *sender) batch(lane wire.Lane, seq uint64, raw []byte) wire.Batch {
	b := wire.Batch{Identity: wire.Identity{Agent: s.agent, Epoch: s.epoch, Lane: lane, Seq: seq, Hash: wire.HashContent(raw)}, RawLen: len(raw)}
	if lane.CarriesMetrics() {
		b.Codec, b.Body = s.coder.Compress(nil, raw)
	} else {
		b.Codec, b.Body = s.coder.CompressLogs(nil, raw)
	}
	return b
}

// deliver repeats the batches until each was answered ok or duplicate, or ctx ends.
func (s *sender) deliver(ctx context.Context, batches []wire.Batch) error {
	body := wire.AppendRequest(nil, s.epoch, batches)
	for try := 0; ; try++ {
		var answer struct {
			Results []struct {
				Lane, Status, Detail string
				Expected             uint64
				Rejected             int
			} `json:"results"`
		}
		err := s.call(ctx, "/v1/agent/batches", wire.ContentType, body, &answer)
		if err == nil {
			if len(answer.Results) != len(batches) {
				return fmt.Errorf("%d results for %d batches", len(answer.Results), len(batches))
			}
			for _, r := range answer.Results {
				if r.Status == "gap" { // each batch is sent when all before it are acknowledged
					return fmt.Errorf("lane %s, from batch %d on: %w", r.Lane, r.Expected, errForgotten)
				}
				if (r.Status != "ok" && r.Status != "duplicate") || r.Rejected > 0 {
					return fmt.Errorf("answered %+v", r)
				}
				if try > 0 && r.Status == "duplicate" {
					s.noteAbsorbed()
				}
			}
			return nil
		}
		if err := s.again(ctx, err); err != nil {
			return err
		}
	}
}

// again waits a little before the next try at the next node; it returns an error when there is to be none.
func (s *sender) again(ctx context.Context, cause error) error {
	if p, ok := errors.AsType[*answerError](cause); ok && p.status < 500 && p.status != http.StatusTooManyRequests {
		return cause
	}
	s.failures++
	s.node++
	select {
	case <-time.After(50 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sender) retry(ctx context.Context, path string, req, answer any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	for {
		err := s.call(ctx, path, "application/json", body, answer)
		if err == nil {
			return nil
		}
		if e := s.again(ctx, err); e != nil {
			return fmt.Errorf("%s: %w (%w)", path, err, e)
		}
	}
}

type answerError struct {
	status int
	body   string
}

func (e *answerError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

func (s *sender) call(ctx context.Context, path, contentType string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.nodes[s.node%len(s.nodes)]+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", contentType)
	resp, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &answerError{resp.StatusCode, string(b)}
	}
	return json.Unmarshal(b, answer)
}
