package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/triward/triward/appliance/internal/freeaddr"
)

// lokiLogs is a running Loki 1.6.1.
type lokiLogs struct {
	*peerProcess
	c *corpus
}

// lokiConfig is what Loki's own example for one process says, with bounds that the bench does not run into. Chunks are not kept in
// memory once they are stored, so that questions ask the store, as they do of an older day.
const lokiConfig = `auth_enabled: false
server: {http_listen_address: 127.0.0.1, http_listen_port: %s, grpc_listen_address: 127.0.0.1, grpc_listen_port: %s, log_level: warn, http_server_read_timeout: 5m, http_server_write_timeout: 5m, grpc_server_max_recv_msg_size: 104857600, grpc_server_max_send_msg_size: 104857600}
ingester:
  lifecycler:
    address: 127.0.0.1
    ring: {kvstore: {store: inmemory}, replication_factor: 1}
    final_sleep: 0s
    min_ready_duration: 0s
  chunk_idle_period: 5m
  chunk_retain_period: 0s
  max_transfer_retries: 0
ingester_client: {grpc_client_config: {max_recv_msg_size: 104857600, max_send_msg_size: 104857600}}
schema_config: {configs: [{from: 2018-04-15, store: boltdb, object_store: filesystem, schema: v11, index: {prefix: index_, period: 168h}}]}
storage_config: {boltdb: {directory: %[3]s/index}, filesystem: {directory: %[3]s/chunks}}
limits_config: {enforce_metric_name: false, reject_old_samples: false, ingestion_rate_mb: 1000, ingestion_burst_size_mb: 1000, max_global_streams_per_user: 0, max_query_length: 0s}
querier: {query_timeout: 5m}
`

func startLoki(ctx context.Context, c *corpus, bin, dir string) (*lokiLogs, error) {
	free, err := freeaddr.Addresses(2)
	if err != nil {
		return nil, err
	}
	_, httpPort, err := net.SplitHostPort(free[0])
	if err != nil {
		return nil, err
	}
	_, grpcPort, err := net.SplitHostPort(free[1])
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "loki.yaml")
	l := &lokiLogs{c: c, peerProcess: &peerProcess{
		title: "Loki 1.6.1", bin: bin, args: []string{"-config.file=" + config}, dir: dir, address: "127.0.0.1:" + httpPort, ready: "/ready",
	}}
	if err := os.WriteFile(config, fmt.Appendf(nil, lokiConfig, httpPort, grpcPort, l.data()), 0o600); err != nil {
		return nil, err
	}
	return l, l.start(ctx)
}

// feed sends the corpus by Loki's push API in the form of its own agent, protobuf in a snappy block, a sender for each host, each
// waiting for the answer: Loki takes the lines of a stream in the order of their times alone.
func (l *lokiLogs) feed(ctx context.Context) error {
	return l.c.deal(ctx, func(ctx context.Context, _ int, parts <-chan []corpusLine) error {
		var plain, packed []byte
		for lines := range parts {
			plain = appendLokiPush(plain[:0], lines)
			packed = snappy.Encode(packed[:cap(packed)], plain)
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.address+"/loki/api/v1/push", bytes.NewReader(packed))
			if err != nil {
				return err
			}
			r.Header.Set("Content-Type", "application/x-protobuf")
			if _, err := fetch(l.http, r); err != nil {
				return fmt.Errorf("push into Loki: %w", err)
			}
		}
		return nil
	})
}

// appendLokiPush appends a push of the lines of one host, a stream for each file. Loki 1.6 has nowhere to put fields of a line.
func appendLokiPush(dst []byte, lines []corpusLine) []byte {
	var files []string
	streams := map[string][]byte{}
	var entry, stamp []byte
	for i := range lines {
		line := &lines[i]
		stream, known := streams[line.file]
		if !known {
			files = append(files, line.file)
			stream = protowire.AppendTag(nil, 1, protowire.BytesType)
			stream = protowire.AppendString(stream, fmt.Sprintf(`{file=%q,host="sender%d"}`, line.file, line.host))
		}
		stamp = protowire.AppendVarint(protowire.AppendTag(stamp[:0], 1, protowire.VarintType), uint64(line.t/1e9))
		stamp = protowire.AppendVarint(protowire.AppendTag(stamp, 2, protowire.VarintType), uint64(line.t%1e9))
		entry = protowire.AppendBytes(protowire.AppendTag(entry[:0], 1, protowire.BytesType), stamp)
		entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), line.text)
		stream = protowire.AppendTag(stream, 2, protowire.BytesType)
		streams[line.file] = protowire.AppendBytes(stream, entry)
	}
	for _, file := range files {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 1, protowire.BytesType), streams[file])
	}
	return dst
}

// rest returns when all chunks are stored.
func (l *lokiLogs) rest(ctx context.Context) error {
	return until(ctx, 5*time.Minute, func(ctx context.Context) error {
		// It stores what is in memory, and forgets what an earlier call stored.
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.address+"/flush", nil)
		if err != nil {
			return err
		}
		if _, err := fetch(l.http, r); err != nil {
			return err
		}
		b, err := l.get(ctx, "/metrics")
		if err != nil {
			return err
		}
		if n := sumOf(b, "loki_ingester_memory_chunks"); n > 0 {
			return fmt.Errorf("Loki has %.0f chunks in memory", n)
		}
		return pause(ctx, time.Second) // the index is written within
	})
}

// errNotAsked is for a question that a system's language does not know.
var errNotAsked = errors.New("there is no such question")

func (l *lokiLogs) request(ctx context.Context, q *benchQuery) (*http.Request, error) {
	if q.logql == "" {
		return nil, errNotAsked
	}
	from, to := l.c.day, l.c.day.Add(24*time.Hour)
	path, v := "query_range", url.Values{}
	switch q.kind {
	case askRows:
		v = url.Values{"query": {q.logql}, "limit": {strconv.Itoa(askedRows)}, "direction": {"BACKWARD"}}
	case askCount:
		path = "query"
		v = url.Values{"query": {"sum(count_over_time(" + q.logql + "[24h]))"}, "time": {strconv.FormatInt(to.UnixNano(), 10)}}
	case askBars: // a value counts what is before its time
		from = from.Add(time.Minute)
		v = url.Values{"query": {"sum(count_over_time(" + q.logql + "[1m]))"}, "step": {"60"}}
	}
	if path == "query_range" {
		v.Set("start", strconv.FormatInt(from.UnixNano(), 10))
		v.Set("end", strconv.FormatInt(to.UnixNano(), 10))
	}
	return http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.address+"/loki/api/v1/"+path+"?"+v.Encode(), nil)
}

func (l *lokiLogs) parse(q *benchQuery, body []byte) (a benchAnswer, err error) {
	var answer struct {
		Data struct {
			Result []struct {
				Value  [2]any            `json:"value"`
				Values []json.RawMessage `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&answer); err != nil {
		return a, err
	}
	a.bars = map[int64]int64{}
	for _, r := range answer.Data.Result {
		if q.kind == askCount {
			n, err := strconv.ParseInt(fmt.Sprint(r.Value[1]), 10, 64)
			if err != nil {
				return a, err
			}
			a.count += n
			continue
		}
		for _, pair := range r.Values {
			var at json.Number // quoted in lines, a number in values
			var text string
			if err := json.Unmarshal(pair, &[2]any{&at, &text}); err != nil {
				return a, err
			}
			t, err := at.Int64()
			if err != nil {
				return a, err
			}
			if q.kind == askRows {
				a.rows = append(a.rows, benchRow{t, text})
				continue
			}
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return a, err
			}
			a.bars[t-60] += n
		}
	}
	sortRows(a.rows)
	return a, nil
}
