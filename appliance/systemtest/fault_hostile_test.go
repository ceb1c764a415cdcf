package systemtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Goals of what a hostile body may cost.
const (
	hostileTime   = 100 * time.Millisecond // to the answer, from the last byte of the body on
	hostileMemory = 32 << 20               // more than before
)

// hostileRows are those of bodies that are made to do harm.
func hostileRows() []faultRow {
	return []faultRow{{
		name: "hostile-bodies", fault: "every endpoint that takes a body is sent bombs, depth, noise, cut and endless ones, by somebody who may do everything",
		weight: 35 * time.Second, run: func(ctx context.Context, tr *trial) error { return tr.hostile(ctx) },
	}}
}

// hostileBody is one of them.
type hostileBody struct {
	what, media, encoding string
	body                  []byte
	mild                  bool // some endpoints may take it, for nothing
}

// hostileBodies are all kinds, each small to send.
func (tr *trial) hostileBodies() ([]hostileBody, error) {
	zeros := make([]byte, 1<<20)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return nil, err
	}
	var frames bytes.Buffer
	enc.Reset(&frames)
	for range 256 {
		if _, err := z.Write(zeros); err != nil {
			return nil, err
		}
		if _, err := enc.Write(zeros); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(z.Close(), enc.Close()); err != nil {
		return nil, err
	}
	noise := make([]byte, 32<<10)
	for i := range noise {
		noise[i] = byte(tr.rng.IntN(256))
	}
	const json, proto = "application/json", "application/x-protobuf"
	deep := []byte(strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000))
	return []hostileBody{
		{what: "nothing", media: json, mild: true},
		{what: "depth of 30,000", media: json, body: deep},
		{what: "objects in one another", media: json, body: []byte(strings.Repeat(`{"a":`, 10_000))},
		{what: "an object that is cut", media: json, body: []byte(`{"name":"a","body":"`)},
		{what: "a number that is none", media: json, body: []byte(`[` + strings.Repeat("9", 50_000) + `]`)},
		{what: "text that is no UTF-8", media: json, body: []byte("{\"name\":\"\xff\xfe\xed\xa0\x80\"}"), mild: true},
		{what: "noise", media: json, body: noise},
		{what: "noise", media: proto, encoding: "snappy", body: noise},
		{what: "noise", media: "application/vnd.triward.batches", body: noise},
		{what: "noise", media: "application/zip", encoding: "gzip", body: noise},
		{what: "256 MiB in gzip", media: json, encoding: "gzip", body: zipped.Bytes()},
		{what: "256 MiB in gzip, of protobuf", media: proto, encoding: "gzip", body: zipped.Bytes()},
		{what: "256 MiB in zstd", media: proto, encoding: "zstd", body: frames.Bytes()},
		{what: "4 GiB that snappy claims", media: proto, encoding: "snappy", body: binary.AppendUvarint(nil, 1<<32-1)},
		{what: "a length that protobuf claims", media: proto, body: []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07}},
	}, nil
}

// pathParameter is one in the path of a route.
var pathParameter = regexp.MustCompile(`\{[^}]*\}`)

// endpoints are method and path of everything that takes a body, as the program describes itself.
func (tr *trial) endpoints(ctx context.Context, n *devNode) ([][2]string, error) {
	var doc struct {
		Paths map[string]map[string]struct{ RequestBody any }
	}
	if err := tr.c.get(ctx, n, "/v1/openapi.json", nil, &doc); err != nil {
		return nil, err
	}
	var list [][2]string
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			if doc.Paths[path][method].RequestBody != nil {
				list = append(list, [2]string{strings.ToUpper(method), pathParameter.ReplaceAllString(path, "x")})
			}
		}
	}
	if len(list) < 20 {
		return nil, fmt.Errorf("the description names %d endpoints with a body", len(list))
	}
	return list, nil
}

// tidy is a plan whose nodes give memory back soon, so that what a body takes is seen.
func tidy() plan {
	return plan{command: func(_ int, cmd *exec.Cmd) { cmd.Env = append(os.Environ(), "GOGC=20") }}
}

// hostile sends all bodies to all endpoints while senders go on.
func (tr *trial) hostile(ctx context.Context) error {
	if err := tr.found(ctx, tidy()); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	n := &tr.c.Nodes[tr.rng.IntN(len(tr.c.Nodes))]
	list, err := tr.endpoints(ctx, n)
	if err != nil {
		return err
	}
	bodies, err := tr.hostileBodies()
	if err != nil {
		return err
	}
	if err := tr.progress(ctx, 100); err != nil { // and the node has the memory that it needs for them
		return err
	}
	g := tr.weigh(ctx, n)
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	from, before := tr.logEnd(), g.most.Load()
	var took []time.Duration
	for _, e := range list {
		for _, b := range bodies {
			d, err := tr.hostileOne(ctx, n, e[0], e[1], &b)
			if err != nil {
				return fmt.Errorf("%s %s with %s (%s %s): %w", e[0], e[1], b.what, b.media, b.encoding, err)
			}
			took = append(took, d)
			tr.faulted(1)
		}
	}
	g.end()
	slices.Sort(took)
	p99, grown := took[len(took)*99/100], g.most.Load()-before
	tr.note("%d endpoints, %d bodies each; answered in %v (p50), %v (p99), goal %v; %d MiB more memory at most, goal %d MiB",
		len(list), len(bodies), took[len(took)/2].Round(time.Millisecond), p99.Round(time.Millisecond), hostileTime, grown>>20, hostileMemory>>20)
	if p99 > tooSlow*hostileTime {
		return fmt.Errorf("hostile bodies are answered in %v (p99), the goal is %v", p99, hostileTime)
	}
	if float64(grown) > tooMuch*hostileMemory {
		return fmt.Errorf("hostile bodies take %d MiB, the goal is %d MiB", grown>>20, hostileMemory>>20)
	}
	if elected := tr.elections(from); elected > 0 {
		return fmt.Errorf("%d elections", elected)
	}
	if err := tr.progress(ctx, 5); err != nil {
		return err
	}
	return tr.compare(ctx)
}

// hostileOne sends one body and holds that it is refused in clear, or is taken for what it says, by a node that lives on.
func (tr *trial) hostileOne(ctx context.Context, n *devNode, method, path string, b *hostileBody) (time.Duration, error) {
	at := n.URL
	client, bearer := tr.c.client, tr.c.Token
	if strings.HasPrefix(path, "/v1/agent/") {
		at, bearer, client = n.AgentURL, "", tr.traffic.senders[0].http
	}
	target, err := url.JoinPath(at, path)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(b.body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", b.media)
	if b.encoding != "" {
		r.Header.Set("Content-Encoding", b.encoding)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	begin := time.Now()
	resp, err := client.Do(r)
	if err != nil {
		if tr.c.ended(n) {
			return 0, fmt.Errorf("%s ended: %w", n.ID, err)
		}
		return 0, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	took := time.Since(begin)
	if err == nil && resp.StatusCode/100 != 4 && !(b.mild && resp.StatusCode/100 == 2) {
		err = fmt.Errorf("answered %d: %s", resp.StatusCode, said)
	}
	return took, err
}
