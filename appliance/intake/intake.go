// Package intake takes what senders deliver that know nothing of Triward: Prometheus remote write, Loki push, and
// JSON lists of metrics, lines and events. It bounds and decodes a request, gives series their ids, proposes the rest
// as deliveries (raftstate/command.Deliver), and says what was taken.
//
// Nobody here has a sequence, so an answer that was lost is repeated: samples that come again are found by their
// series' time stamps, lines by the window of recent lines. A request is answered with success only when all of it is
// committed. What cannot be taken is named; all else in the request is stored all the same.
//
// All senders share the sources in which the state machine counts series (shardOf), by the labels alone. So one
// sender through three nodes, or two that send the same series, are one series, and no label set is ever owned by
// two sources. The label `agent` stays with Triward's own agents: of others it becomes `exported_agent`.
//
// The package keeps no state but a cache of series ids. It must not import the stores, ui or the API.
package intake

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/pipeline"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
)

// Bounds of one request.
const (
	// MaxBody is the longest body as it comes, in bytes.
	MaxBody     = 4 << 20
	maxDecoded  = 16 << 20 // the same decompressed
	maxSamples  = 200_000
	maxLines    = 100_000
	maxMessages = 10_000 // of a JSON list
	unfolds     = 6      // times its length decompressed a body takes once it is decoded, its commands included
)

// Defaults of Options.
const (
	defaultInFlight = 128 << 20
	defaultCache    = 128 << 20
)

// Cluster is the replicated log as the intake needs it.
type Cluster interface {
	// Propose returns when the commands are committed and applied on the leader: their results and the index of their
	// entry.
	Propose(ctx context.Context, cmds ...command.Command) (index uint64, results []command.Result, err error)
}

// Options are the parts and bounds of an Intake.
type Options struct {
	Cluster       Cluster
	Coder         *wire.Coder
	Metrics       prometheus.Registerer
	Redactor      *pipeline.Redactor // masks secrets in lines before they are proposed; nil masks nothing
	BytesInFlight int64              // what requests hold at once, decoded; 128 MiB when 0
	CacheBytes    int64              // of the cache of series ids; 128 MiB when 0
}

// Intake decodes and proposes requests. It is safe for concurrent use and has no goroutine of its own. Its handlers
// return errors as problems or as those of the log, for the API to answer.
type Intake struct {
	opts     Options
	inFlight *semaphore.Weighted
	total    int64
	ids      *idCache
	met      intakeMetrics
}

// New makes an Intake.
func New(opts Options) *Intake {
	if opts.BytesInFlight == 0 {
		opts.BytesInFlight = defaultInFlight
	}
	if opts.CacheBytes == 0 {
		opts.CacheBytes = defaultCache
	}
	return &Intake{
		opts: opts, inFlight: semaphore.NewWeighted(opts.BytesInFlight), total: opts.BytesInFlight,
		ids: newIDCache(opts.CacheBytes), met: newMetrics(opts.Metrics),
	}
}

// hold is what a request takes of the bytes in flight.
type hold struct {
	in  *Intake
	has int64
}

// take adds n bytes decompressed. A request that is larger than the whole budget has it when it is alone.
func (h *hold) take(n int64) error {
	more := min(n*unfolds, h.in.total-h.has)
	if !h.in.inFlight.TryAcquire(more) {
		h.in.met.busy.Inc()
		return problem.New(http.StatusTooManyRequests, "this node holds as many bytes of senders in flight as it may").
			WithRetryAfter(time.Second)
	}
	h.has += more
	return nil
}

func (h *hold) release() { h.in.inFlight.Release(h.has) }

// read returns the body of the request, decompressed as its header says, within the bounds.
func (h *hold) read(r *http.Request, encoding string) ([]byte, error) {
	switch encoding {
	case "snappy":
		return h.readSnappy(r.Body)
	case "gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, badBody(err, "gzip")
		}
		return h.readAll(z, "gzip")
	}
	return h.readAll(r.Body, "body")
}

func (h *hold) readSnappy(body io.Reader) ([]byte, error) {
	packed, err := io.ReadAll(body)
	if err != nil {
		return nil, badBody(err, "body")
	}
	n, err := snappy.DecodedLen(packed)
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, "the body is no snappy block: "+err.Error())
	}
	if n > maxDecoded {
		return nil, tooLong(n)
	}
	if err := h.take(int64(n)); err != nil {
		return nil, err
	}
	raw, err := snappy.Decode(nil, packed)
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, "the body is no snappy block: "+err.Error())
	}
	return raw, nil
}

func tooLong(n int) error {
	return problem.New(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has %d bytes decompressed, at most %d are allowed", n, maxDecoded)).
		WithHint("send smaller batches")
}

// readAll reads to the end, taking bytes as they come.
func (h *hold) readAll(r io.Reader, what string) ([]byte, error) {
	const step = 64 << 10
	var b []byte
	for {
		if len(b)+step > cap(b) { // the last growth ends at what is allowed, not at twice as much
			room := max(2*cap(b), step)
			if room >= maxDecoded {
				room = maxDecoded + 2*step
			}
			b = append(make([]byte, 0, room), b...)
		}
		n, err := r.Read(b[len(b) : len(b)+step])
		b = b[:len(b)+n]
		if takeErr := h.take(int64(n)); takeErr != nil {
			return nil, takeErr
		}
		if len(b) > maxDecoded {
			return nil, tooLong(len(b))
		}
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, badBody(err, what)
		}
	}
}

// badBody is the answer to a body that could not be read to its end.
func badBody(err error, what string) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return problem.New(http.StatusServiceUnavailable, "the body did not come in time").WithRetryAfter(5 * time.Second)
	}
	return problem.New(http.StatusBadRequest, fmt.Sprintf("%s broke off or is damaged: %v", what, err))
}

// kindOf reads the headers that say what the body is. Encodings are in lower case; one that is not among allowed is
// answered 415.
func kindOf(r *http.Request, allowed ...string) (media string, params map[string]string, encoding string, err error) {
	if raw := r.Header.Get("Content-Type"); raw != "" {
		if media, params, err = mime.ParseMediaType(raw); err != nil {
			return "", nil, "", problem.New(http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Type %.100q: %v", raw, err))
		}
	}
	encoding = strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding")))
	if encoding == "identity" {
		encoding = ""
	}
	for _, a := range allowed {
		if encoding == a {
			return media, params, encoding, nil
		}
	}
	return "", nil, "", problem.New(http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Encoding is %.40q, possible here: %q", encoding, allowed))
}

// propose proposes the commands in order, in as many entries as they need, and returns all results. When one entry is
// not taken, those before it stand: whoever repeats the request finds them done.
func (in *Intake) propose(ctx context.Context, cmds []command.Command) ([]command.Result, error) {
	const target = 256 << 10 // of one proposal; the leader joins small ones
	results := make([]command.Result, 0, len(cmds))
	for from := 0; from < len(cmds); {
		to, size := from, 0
		for to < len(cmds) && to-from < command.MaxCommands && (to == from || size+cmds[to].Size() <= target) {
			size += cmds[to].Size()
			to++
		}
		_, part, err := in.opts.Cluster.Propose(ctx, cmds[from:to:to]...)
		if err != nil {
			return nil, err
		}
		if len(part) != to-from {
			return nil, fmt.Errorf("%d results for %d commands", len(part), to-from)
		}
		results = append(results, part...)
		from = to
	}
	return results, nil
}

type intakeMetrics struct {
	items   *prometheus.CounterVec
	ignored *prometheus.CounterVec
	busy    prometheus.Counter
	learnt  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) intakeMetrics {
	m := intakeMetrics{
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_intake_items_total", Help: "Samples, lines and events of senders by protocol and outcome.",
		}, []string{"protocol", "outcome"}),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_intake_ignored_total", Help: "What senders delivered that is not kept: metadata, exemplars, native histograms.",
		}, []string{"what"}),
		busy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_intake_refused_busy_total", Help: "Requests refused because too many bytes of senders were in flight.",
		}),
		learnt: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_intake_series_registered_total", Help: "Label sets that this node had to ask the log the ids of.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.items, m.ignored, m.busy, m.learnt)
	}
	return m
}
