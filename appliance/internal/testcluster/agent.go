package testcluster

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/pki"
)

// Agent speaks the agents' protocol. It numbers its batches and sends each once, to the node it is told.
type Agent struct {
	ID     string
	Cert   tls.Certificate
	Host   string
	Epoch  wire.Epoch
	Series []uint64

	cluster *Cluster
	http    *http.Client // shows the certificate
	coder   *wire.Coder
	seq     map[wire.Lane]uint64
}

// BatchResult is what the cluster says of a batch.
type BatchResult struct {
	Status     string `json:"status"`
	Expected   uint64 `json:"expected"`
	Accepted   int    `json:"accepted"`
	Duplicates int    `json:"duplicates"`
	Rejected   int    `json:"rejected"`
}

// NewAgent enrolls an agent of that host with a fresh token, opens its epoch and registers the series.
func (c *Cluster) NewAgent(t testing.TB, host string, series ...map[string]string) *Agent {
	t.Helper()
	return c.NewAgentAt(t, c.Nodes[0], host, series...)
}

// NewAgentAt is NewAgent by a node that may be another than the first.
func (c *Cluster) NewAgentAt(t testing.TB, n *Node, host string, series ...map[string]string) *Agent {
	t.Helper()
	coder, err := wire.NewCoder()
	must(t, err)
	a := c.Stranger(host)
	a.coder = coder
	_, _ = rand.Read(a.Epoch[:]) // never fails
	var token struct {
		Token string `json:"token"`
	}
	must(t, c.Post(n, "/v1/tokens/join", map[string]any{"kind": "agent"}, &token))
	must(t, a.Enroll(t, n, token.Token))
	must(t, a.call(n, "/v1/agent/hello", map[string]any{"epoch": a.Epoch.String(), "open": true}, nil))
	if len(series) > 0 {
		var ids struct {
			IDs []uint64 `json:"ids"`
		}
		must(t, a.call(n, "/v1/agent/series", map[string]any{"series": series}, &ids))
		a.Series = ids.IDs
	}
	return a
}

// Stranger is an agent that is not enrolled yet and sends no batches.
func (c *Cluster) Stranger(host string) *Agent {
	return &Agent{Host: host, cluster: c, http: c.HTTP, seq: make(map[wire.Lane]uint64)}
}

// Enroll redeems a token at a node for the agent's identity and certificate.
func (a *Agent) Enroll(t testing.TB, n *Node, token string) error {
	t.Helper()
	csr, key, err := pki.NewRequest("agent")
	must(t, err)
	var got struct {
		ID   string `json:"agent_id"`
		Cert string `json:"cert_pem"`
	}
	if err := a.call(n, "/v1/agent/enroll", map[string]any{"token": token, "hostname": a.Host, "csr_pem": string(csr)}, &got); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair([]byte(got.Cert), key)
	must(t, err)
	a.ID = got.ID
	a.Use(t, pair)
	return nil
}

// Use has the agent show another certificate from now on, over new connections.
func (a *Agent) Use(t testing.TB, cert tls.Certificate) {
	conf := a.cluster.TLS.Clone()
	conf.Certificates = []tls.Certificate{cert}
	a.Cert, a.http = cert, a.cluster.client(t, conf)
}

// Renew asks a node for a new certificate and uses it.
func (a *Agent) Renew(t testing.TB, n *Node) error {
	t.Helper()
	csr, key, err := pki.NewRequest("agent")
	must(t, err)
	var got struct {
		Cert string `json:"cert_pem"`
	}
	if err := a.call(n, "/v1/agent/renew", map[string]any{"csr_pem": string(csr)}, &got); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair([]byte(got.Cert), key)
	must(t, err)
	a.Use(t, pair)
	return nil
}

// Beat sends a heartbeat.
func (a *Agent) Beat(n *Node) error { return a.call(n, "/v1/agent/heartbeat", struct{}{}, nil) }

// Metrics makes the next batch of metrics.
func (a *Agent) Metrics(scrapes ...wire.Scrape) wire.Batch {
	return a.batch(wire.LaneMetrics, wire.AppendMetrics(nil, scrapes))
}

// Lines makes the next batch of lines of one file, all at the time t (nanoseconds).
func (a *Agent) Lines(t int64, texts ...string) wire.Batch {
	s := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "file", Value: "/var/log/test.log"}, {Name: "source", Value: "file"}}}
	for _, text := range texts {
		s.Lines = append(s.Lines, wire.LogLine{T: t, Severity: wire.SeverityInfo, Text: []byte(text)})
	}
	return a.batch(wire.LaneLogs, wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{s}}))
}

func (a *Agent) batch(lane wire.Lane, raw []byte) wire.Batch {
	a.seq[lane]++
	b := wire.Batch{
		Identity: wire.Identity{Agent: a.ID, Epoch: a.Epoch, Lane: lane, Seq: a.seq[lane], Hash: wire.HashContent(raw)},
		RawLen:   len(raw),
	}
	b.Codec, b.Body = a.coder.Compress(nil, raw)
	return b
}

// Send delivers batches to a node and returns its answer for each.
func (a *Agent) Send(n *Node, batches ...wire.Batch) ([]BatchResult, error) {
	var answer struct {
		Results []BatchResult `json:"results"`
	}
	err := a.post(n, "/v1/agent/batches", wire.ContentType, wire.AppendRequest(nil, a.Epoch, batches), &answer)
	return answer.Results, err
}

func (a *Agent) call(n *Node, path string, body, v any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return a.post(n, path, "application/json", encoded, v)
}

func (a *Agent) post(n *Node, path, kind string, body []byte, v any) error {
	req, err := http.NewRequest(http.MethodPost, n.Config.Listen.Agents.Advertise+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, said)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(said, v)
}
