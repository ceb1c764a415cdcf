package systemtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/triward/triward/appliance/internal/freeaddr"
)

// peerLogs is a running VictoriaLogs.
type peerLogs struct {
	*peerProcess
	c *corpus
}

func startPeer(ctx context.Context, c *corpus, bin, dir string) (*peerLogs, error) {
	free, err := freeaddr.Addresses(1)
	if err != nil {
		return nil, err
	}
	p := &peerLogs{c: c, peerProcess: &peerProcess{title: "VictoriaLogs", bin: bin, dir: dir, address: free[0], ready: "/health"}}
	p.args = []string{"-storageDataPath=" + p.data(), "-httpListenAddr=" + p.address, "-retentionPeriod=100y"}
	return p, p.start(ctx)
}

// feed sends the corpus by the insert API for lines of JSON, a sender for each host, each waiting for the answer.
func (p *peerLogs) feed(ctx context.Context) error {
	target := "http://" + p.address + "/insert/jsonline?" + url.Values{
		"_stream_fields": {"host,file"}, "_time_field": {"_time"}, "_msg_field": {"_msg"},
	}.Encode()
	return p.c.deal(ctx, func(ctx context.Context, _ int, parts <-chan []corpusLine) error {
		var body []byte
		for lines := range parts {
			body = body[:0]
			for i := range lines {
				body = appendPeerLine(body, &lines[i])
			}
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
			if err != nil {
				return err
			}
			r.Header.Set("Content-Type", "application/stream+json")
			if _, err := fetch(p.http, r); err != nil {
				return fmt.Errorf("insert into VictoriaLogs: %w", err)
			}
		}
		return nil
	})
}

func appendPeerLine(dst []byte, l *corpusLine) []byte {
	dst = append(dst, `{"_time":"`...)
	dst = time.Unix(0, l.t).UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = fmt.Appendf(dst, `","host":"sender%d","file":%q,"level":%q`, l.host, l.file, l.severity.String())
	for _, f := range l.fields {
		dst = fmt.Appendf(dst, ",%q:%q", f.Name, f.Value)
	}
	text, _ := json.Marshal(string(l.text)) // texts always encode
	dst = append(append(dst, `,"_msg":`...), text...)
	return append(dst, "}\n"...)
}

// rest returns when what was inserted is on disk and no parts are merged any more.
func (p *peerLogs) rest(ctx context.Context) error {
	if _, err := p.get(ctx, "/internal/force_flush"); err != nil {
		return err
	}
	quiet := time.Now()
	return until(ctx, 10*time.Minute, func(ctx context.Context) error {
		b, err := p.get(ctx, "/metrics")
		if err != nil {
			return err
		}
		busy := 0.0
		for _, name := range []string{"vl_active_merges", "vl_pending_rows", `vl_storage_rows{type="storage/inmemory"`} {
			busy += sumOf(b, name)
		}
		if busy > 0 {
			quiet = time.Now()
		}
		if d := time.Since(quiet); d < 10*time.Second {
			return fmt.Errorf("VictoriaLogs was at work %v ago", d.Round(time.Second))
		}
		return nil
	})
}

// sumOf adds the samples of an exposition whose lines begin so.
func sumOf(exposition []byte, begins string) (sum float64) {
	for sc := bufio.NewScanner(bytes.NewReader(exposition)); sc.Scan(); {
		line := sc.Text()
		if rest, ok := strings.CutPrefix(line, begins); ok && (rest == "" || rest[0] == '{' || rest[0] == ' ' || strings.HasSuffix(begins, `"`)) {
			v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err == nil {
				sum += v
			}
		}
	}
	return sum
}

func (p *peerLogs) request(ctx context.Context, q *benchQuery) (*http.Request, error) {
	v := url.Values{
		"query": {q.peer}, "start": {p.c.day.Format(time.RFC3339Nano)}, "end": {p.c.day.Add(24*time.Hour - 1).Format(time.RFC3339Nano)},
	}
	path := "/select/logsql/query"
	switch q.kind {
	case askRows:
		v.Set("limit", strconv.Itoa(askedRows))
	case askCount:
		v.Set("query", q.peer+" | stats count() n")
	case askBars:
		path = "/select/logsql/hits"
		v.Set("step", "1m")
	}
	return http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+path+"?"+v.Encode(), nil)
}

func (p *peerLogs) parse(q *benchQuery, body []byte) (a benchAnswer, err error) {
	switch q.kind {
	case askBars:
		var hits struct {
			Hits []struct {
				Timestamps []time.Time
				Values     []int64
			}
		}
		if err := json.Unmarshal(body, &hits); err != nil {
			return a, err
		}
		a.bars = map[int64]int64{}
		for _, h := range hits.Hits {
			if len(h.Timestamps) != len(h.Values) {
				return a, errors.New("not as many values as timestamps")
			}
			for i, at := range h.Timestamps {
				a.bars[at.Unix()] += h.Values[i]
			}
		}
		return a, nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	for {
		var row struct {
			N    string    `json:"n"`
			Time time.Time `json:"_time"`
			Msg  string    `json:"_msg"`
		}
		if err := d.Decode(&row); errors.Is(err, io.EOF) {
			sortRows(a.rows)
			return a, nil
		} else if err != nil {
			return a, err
		}
		if q.kind == askCount {
			if a.count, err = strconv.ParseInt(row.N, 10, 64); err != nil {
				return a, err
			}
			continue
		}
		a.rows = append(a.rows, benchRow{row.Time.UnixNano(), row.Msg})
	}
}

// deal walks through the corpus and hands the lines of each host, some thousand at a time, to its sender.
func (c *corpus) deal(ctx context.Context, send func(ctx context.Context, host int, parts <-chan []corpusLine) error) error {
	const part = 2000
	group, ctx := errgroup.WithContext(ctx)
	var channels [corpusHosts]chan []corpusLine
	for h := range channels {
		channels[h] = make(chan []corpusLine, 1)
		group.Go(func() error { return send(ctx, h, channels[h]) })
	}
	group.Go(func() error {
		var pending [corpusHosts][]corpusLine
		defer func() {
			for _, ch := range channels {
				close(ch)
			}
		}()
		give := func(h int) error {
			select {
			case channels[h] <- pending[h]:
				pending[h] = nil
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := c.each(func(_ int, l *corpusLine) error {
			if pending[l.host] = append(pending[l.host], *l); len(pending[l.host]) < part {
				return nil
			}
			return give(l.host)
		})
		for h := range pending {
			if err == nil && len(pending[h]) > 0 {
				err = give(h)
			}
		}
		return err
	})
	return group.Wait()
}
