// Package agent puts the parts of the host agent together: collectors, tails and journal write into the spool,
// the sender empties it. It owns their order of start and stop: sources stop first, what they hold is spooled,
// then the sender gets a few seconds to deliver it; what remains waits on disk for the next start.
//
// It imports the packages below agent/ and nothing of the server.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/collect"
	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/agent/events"
	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/sender"
	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/systemd"
	"github.com/triward/triward/agent/wire"
)

// drainTime is how long a stopping agent tries to deliver what is spooled.
const drainTime = 5 * time.Second

// Options of an agent besides its configuration.
type Options struct {
	Config   config.Config
	Identity sender.Identity
	Version  string
	Log      *slog.Logger
	// Transport replaces the connections to the gateway, for tests and for a cluster in the same process.
	Transport http.RoundTripper
	// Gatherer replaces node_exporter's collectors; nil uses them.
	Gatherer prometheus.Gatherer
}

// Agent is a running agent.
type Agent struct {
	opt      Options
	cfg      *config.Config
	log      *slog.Logger
	started  time.Time
	host     sender.Host
	spool    *spool.Spool
	coder    *wire.Coder
	sender   *sender.Sender
	creds    *sender.Credentials // nil with a transport of the caller's
	logs     *lines.Batcher
	events   *lines.Batcher
	watch    *events.Source // of the host; nil when it is turned off
	registry *prometheus.Registry
	figures  *figures
	listener net.Listener
	damage   *spool.Damage
	remote   *remote // configuration from the cluster

	src       atomic.Pointer[sources]       // what runs now
	effective atomic.Pointer[config.Config] // what it was made of
	totals    totals

	identityMu sync.Mutex
	identity   sender.Identity // as it is on the disk
}

// New opens the spool and makes all parts; nothing runs yet. After an error nothing is left open.
func New(opt Options) (*Agent, error) {
	a := &Agent{opt: opt, cfg: &opt.Config, log: opt.Log, started: time.Now(), host: DescribeHost(opt.Version), identity: opt.Identity, remote: newRemote()}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if err := a.open(); err != nil {
		return nil, errors.Join(err, a.release())
	}
	return a, nil
}

// ownLabels are those that the gateway sets in every stream of this agent. Whatever the agent says, the gateway sets them by its
// certificate and its record; so it may be wrong here, and then costs the node that it writes the batch anew.
func (a *Agent) ownLabels() wire.Labels {
	ls := wire.LabelsFromMap(map[string]string{"agent": a.identity.AgentID, "host": cmp.Or(a.identity.Hostname, a.host.Hostname)})
	if wire.CheckStreamLabels(ls) != nil {
		return nil
	}
	return ls
}

func (a *Agent) open() (err error) {
	if a.coder, err = wire.NewCoder(); err != nil {
		return err
	}
	sopt := spool.Options{
		MaxBytes: int64(a.cfg.Spool.MaxBytes), MaxSeries: a.cfg.Spool.MaxSeries, Log: a.log,
		OnDrop: a.dropped,
	}
	a.spool, a.damage, err = spool.OpenOrReplace(a.cfg.SpoolDir(), sopt, time.Now())
	if err != nil {
		return err
	}
	if a.damage != nil {
		a.log.Error("spool was damaged and is set aside", "folder", a.damage.SetAside, "err", a.damage.Cause)
	}
	a.registry = prometheus.NewRegistry()
	a.figures = newFigures(a.registry, a)
	own := a.ownLabels()
	a.events = lines.NewBatcher(wire.LaneEvents, a.spool, a.coder, own, a.log, nil)
	a.logs = lines.NewBatcher(wire.LaneLogs, a.spool, a.coder, own, a.log, a.Event)
	if err := a.makeSender(); err != nil {
		return err
	}
	if err := a.makeFirstSources(); err != nil {
		return err
	}
	if err := a.makeEvents(); err != nil {
		return err
	}
	if l := a.cfg.Status.Listen; l != "" && l != "0" {
		if a.listener, err = net.Listen("tcp", l); err != nil {
			return fmt.Errorf("status.listen: %w", err)
		}
	}
	return nil
}

func (a *Agent) makeSender() error {
	rt := a.opt.Transport
	if rt == nil {
		ca := a.opt.Identity.CA
		if a.cfg.CA != "" {
			b, err := os.ReadFile(a.cfg.CA)
			if err != nil {
				return fmt.Errorf("ca: %w", err)
			}
			ca = string(b)
		}
		var err error
		if a.creds, err = sender.NewCredentials(a.opt.Identity); err != nil {
			return err
		}
		if rt, err = sender.NewTransport(ca, a.cfg.ServerName, a.creds); err != nil {
			return err
		}
	}
	a.sender = sender.New(sender.Config{
		Identity: a.opt.Identity, Nodes: a.cfg.Servers, Transport: rt, Spool: a.spool,
		Coder: a.coder, Version: a.opt.Version, Log: a.log, Heartbeat: func() any { return a.Heartbeat() },
		Report: a.Event, OnNodes: a.learnNodes, OnConfig: a.remote.notice, Credentials: a.creds, OnRenewed: a.keepCertificate,
	})
	return nil
}

// makeFirstSources makes the sources of the start: those of agent.yaml with what the cluster set last.
func (a *Agent) makeFirstSources() error {
	c, g, err := a.remembered()
	if err != nil {
		return err
	}
	a.effective.Store(c)
	a.src.Store(a.makeSources(c, g, a.spool.State(wire.LaneLogs), nil))
	return nil
}

// NodeGatherer makes the gatherer of the machine's metrics.
func NodeGatherer(m *config.Metrics, log *slog.Logger) (prometheus.Gatherer, error) {
	c, err := collect.NewNode(collect.NodeOptions{
		Enable: m.Collectors.Enable, Disable: m.Collectors.Disable,
		ProcFS: m.ProcFS, SysFS: m.SysFS, RootFS: m.RootFS,
		Log: slog.New(collect.Quiet(log.Handler())),
	})
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	reg := prometheus.NewRegistry()
	if c != nil {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return reg, nil
}

// Run works until ctx ends, then stops cleanly: sources, spool, delivery of what is left for a few seconds. It
// releases everything; the agent cannot be run again.
func (a *Agent) Run(ctx context.Context) error {
	sources, stopSources := context.WithCancel(ctx)
	defer stopSources()
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	var changes, consumers sync.WaitGroup
	failures := make(chan error, 5)
	if a.listener != nil {
		srv := &http.Server{Handler: a.statusHandler(), ReadHeaderTimeout: 5 * time.Second}
		consumers.Go(func() { _ = srv.Serve(a.listener) })
		defer srv.Close()
	}
	a.Event("started", fmt.Sprintf("agent %s started on %s", a.opt.Version, a.host.Hostname))
	if a.damage != nil {
		a.Event("spool-damaged", fmt.Sprintf("the spool was damaged and is kept in %s: %v", a.damage.SetAside, a.damage.Cause))
	}
	consumers.Go(func() { failures <- a.sender.Run(sending) })
	a.src.Load().start(sources, nil, failures)
	changes.Go(func() { a.followCluster(sources, failures) })
	if a.watch != nil {
		changes.Go(func() { failures <- a.watch.Run(sources) })
	}
	a.notify("READY=1")
	err := a.wait(ctx, failures)
	a.notify("STOPPING=1")
	stopSources()
	changes.Wait() // so that nothing is begun any more
	a.src.Load().stop()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err == nil {
		if a.watch != nil {
			a.watch.Close(flush)
		}
		a.Event("stopped", "agent stops: it was asked to")
	}
	err = errors.Join(err, a.logs.Close(flush), a.events.Close(flush))
	if err == nil {
		a.drain(flush)
	}
	stopSending()
	if a.listener != nil {
		a.listener.Close()
	}
	consumers.Wait()
	return errors.Join(err, a.release())
}

func (a *Agent) notify(state string) {
	if err := systemd.Notify(state); err != nil {
		a.log.Warn("service manager does not hear", "err", err)
	}
}

// wait returns when ctx ends (nil) or a part cannot go on.
func (a *Agent) wait(ctx context.Context, failures <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failures:
			if err != nil {
				return err
			}
		}
	}
}

// drain waits until the cluster has everything, or ctx ends.
func (a *Agent) drain(ctx context.Context) {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for a.spool.Pending() && a.sender.Counters.Connected.Load() {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// release closes what New opened. It may be called more than once.
func (a *Agent) release() error {
	var errs []error
	if a.listener != nil {
		a.listener.Close()
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, b := range []*lines.Batcher{a.logs, a.events} {
		if b != nil {
			b.Close(gone) // written before, or given up with an error that was returned already
		}
	}
	if a.spool != nil {
		errs = append(errs, a.spool.Close())
	}
	return errors.Join(errs...)
}

func (a *Agent) dropped(d spool.Drop) {
	a.log.Error("collected data is given up", "lane", d.Lane.String(), "from", d.From, "to", d.To, "items", d.Items,
		"reason", d.Reason)
	a.figures.dropped.WithLabelValues(d.Lane.String()).Add(float64(d.Items))
	if a.events != nil && d.Lane != wire.LaneEvents {
		a.Event("lost", fmt.Sprintf("%d items of lane %s, batches %d to %d, were given up: %s", d.Items, d.Lane, d.From,
			d.To, d.Reason))
	}
}

// learnNodes keeps the addresses that the cluster named, for the next start.
func (a *Agent) learnNodes(urls []string) {
	a.identityMu.Lock()
	defer a.identityMu.Unlock()
	if a.identity.AgentID == "" {
		return
	}
	a.identity.Nodes = urls
	if err := a.identity.Save(a.cfg.IdentityPath()); err != nil {
		a.log.Warn("addresses of the nodes are not kept", "err", err)
	}
}

// keepCertificate keeps a renewed certificate and its key.
func (a *Agent) keepCertificate(certPEM, keyPEM string) error {
	a.identityMu.Lock()
	defer a.identityMu.Unlock()
	id := a.identity
	id.Cert, id.Key = certPEM, keyPEM
	if err := id.Save(a.cfg.IdentityPath()); err != nil {
		return fmt.Errorf("keep the renewed certificate: %w", err)
	}
	a.identity = id
	return nil
}

// metricSink writes scrapes into the spool.
type metricSink struct {
	sp    *spool.Spool
	coder *wire.Coder
	raw   []byte
}

// Number implements collect.Numbers.
func (m *metricSink) Number(key []byte) (uint64, error) { return m.sp.Number(key) }

// Put implements collect.Sink.
func (m *metricSink) Put(_ context.Context, scrapes []wire.Scrape) error {
	m.raw = wire.AppendMetrics(m.raw[:0], scrapes)
	c := spool.Content{Hash: wire.HashContent(m.raw), RawLen: len(m.raw)}
	for _, s := range scrapes {
		c.Items += len(s.IDs)
	}
	c.Codec, c.Body = m.coder.Compress(nil, m.raw)
	return m.sp.Append(wire.LaneMetrics, c)
}

// Between implements collect.Sink.
func (m *metricSink) Between() error { return m.sp.ReclaimSeries() }
