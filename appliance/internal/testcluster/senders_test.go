package testcluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// sender pushes as Prometheus and a client of Loki do: to one node after another, the same again until it is taken.
type sender struct {
	c     *Cluster
	token string
	turn  int
}

// push sends a body once and returns an error unless it was taken.
func (s *sender) push(path, kind, encoding string, body []byte) error {
	s.turn++
	n := s.c.Nodes[s.turn%len(s.c.Nodes)]
	req, err := http.NewRequest(http.MethodPost, n.URL()+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := s.c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s %s: %s: %s", n.Config.NodeID, path, resp.Status, said)
	}
	return nil
}

// What senders were told is stored is on every node once, though the leader went in between and every push was sent
// twice.
func TestSendersLoseNothingWithTheLeader(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	var token struct {
		Token string `json:"token"`
	}
	must(t, c.Post(c.Nodes[0], "/v1/tokens/api", map[string]string{"name": "prometheus", "role": "ingest"}, &token))
	s := &sender{c: c, token: token.Token}
	const rounds, series = 60, 20
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	gone := c.Leader(t)
	for k := range rounds {
		if k == rounds/3 {
			gone.Stop(t)
		}
		if k == 2*rounds/3 {
			gone.Start(t)
		}
		at := base.Add(time.Duration(k) * time.Second)
		var req prompb.WriteRequest
		for i := range series {
			req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
				Labels:  []prompb.Label{{Name: "__name__", Value: "pushed"}, {Name: "i", Value: strconv.Itoa(i + k/10)}},
				Samples: []prompb.Sample{{Value: float64(k), Timestamp: at.UnixMilli()}},
			})
		}
		raw, err := req.Marshal()
		must(t, err)
		lines := fmt.Appendf(nil, `{"streams":[{"stream":{"job":"j"},"values":[["%d","walrus %d"],["%d","walrus again"]]}]}`, at.UnixNano()+1, k, at.UnixNano()+2)
		for range 2 {
			Until(t, "remote write", func() error {
				return s.push("/api/v1/write", "application/x-protobuf", "snappy", snappy.Encode(nil, raw))
			})
			Until(t, "loki", func() error { return s.push("/loki/api/v1/push", "application/json", "", lines) })
		}
	}
	gone.WaitReady(t)
	c.WaitEqual(t)
	for _, n := range c.Nodes {
		var metrics struct {
			Data struct {
				Result []struct {
					Value [2]any `json:"value"`
				} `json:"result"`
			} `json:"data"`
		}
		q := url.Values{"query": {"sum(count_over_time(pushed[2h]))"}, "consistency": {"linearizable"}}
		must(t, c.Get(n, "/api/v1/query?"+q.Encode(), &metrics))
		if r := metrics.Data.Result; len(r) != 1 || r[0].Value[1] != strconv.Itoa(rounds*series) {
			t.Errorf("%s holds samples %v, want %d", n.Config.NodeID, r, rounds*series)
		}
		var logs struct {
			Rows []struct {
				Text string `json:"text"`
			} `json:"rows"`
		}
		q = url.Values{"query": {"walrus"}, "start": {"now-2h"}, "limit": {"5000"}, "consistency": {"linearizable"}}
		must(t, c.Get(n, "/v1/logs/query?"+q.Encode(), &logs))
		times := map[string]int{}
		for _, r := range logs.Rows {
			times[r.Text]++
		}
		err := error(nil)
		for k := range rounds {
			if got := times[fmt.Sprintf("walrus %d", k)]; got != 1 {
				err = errors.Join(err, fmt.Errorf("line %d is there %d times", k, got))
			}
		}
		if err != nil || times["walrus again"] != rounds {
			t.Errorf("%s: %v, %d of %d lines that are alike", n.Config.NodeID, err, times["walrus again"], rounds)
		}
	}
}
