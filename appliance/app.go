package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/agentconfig"
	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/api/answers"
	"github.com/triward/triward/appliance/api/live"
	"github.com/triward/triward/appliance/api/lokiapi"
	"github.com/triward/triward/appliance/api/promapi"
	"github.com/triward/triward/appliance/auditlog"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/events"
	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/appliance/gateway"
	"github.com/triward/triward/appliance/intake"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/appliance/queue"
	"github.com/triward/triward/appliance/repair"
	"github.com/triward/triward/appliance/selfmon"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/tsdb"
	"github.com/triward/triward/ui"
)

// Options are what an App is given beside its configuration.
type Options struct {
	Log     *slog.Logger   // nil: discards
	Level   *slog.LevelVar // what Log obeys, set by Reload; nil: nothing to set
	Version string         // shown to operators
	// PasswordCost of new passwords; zero takes the default. Tests lower it.
	PasswordCost auth.PasswordCost
	// CompactEvery is how often samples are compacted, as tsdb.Options has it; zero takes the default. Tests that compact
	// one node and not another turn it off.
	CompactEvery time.Duration
	// Context ends New as well as what it made, when it takes longer than somebody wants to wait; nil: nothing does.
	Context context.Context
}

// decodedBytes bounds what is kept in memory of batches of lines from their check until they are applied, which takes tenths of a second.
const decodedBytes = 16 << 20

// App is a node: it owns every part of it. New opens the stores and joins the log, Start begins to serve, Stop
// ends everything in the reverse order.
type App struct {
	cfg      Config
	given    Config // as the file has it: Resolve fills in cfg
	level    *slog.LevelVar
	certs    []*listenerCert // of the listeners for agents and for browsers
	rootLog  *slog.Logger    // for the part that adds the node itself
	log      *slog.Logger
	quiet    *slog.Logger // what is said to it is not stored
	ownLines *selfmon.Buffer
	parts    []api.Check
	version  string
	identity *pki.Identity
	memory   memoryPlan
	keys     *Keys
	agentCAs *agentCAs
	registry *prometheus.Registry
	setup    *Setup

	metrics *tsdb.Store
	query   *tsdb.Query
	logs    *logstore.Store
	guard   *logGuard
	repairs *repair.Service
	// scrubbing says that somebody asked for a search for damage, which is under way.
	scrubbing atomic.Bool
	state     *lateState
	decoded   *wire.Decoded // batches of lines between gateway and Apply
	node      *raftstate.Node
	auth      *auth.Service
	view      *fleet.View
	lines     *ui.LineFeed
	alerts    *alerting.Service
	events    *events.Service
	configs   *agentconfig.Service
	queue     *queue.Service
	cluster   *clusterView
	disk      *diskGauge
	gateway   atomic.Pointer[gateway.Gateway] // nil until it is made
	intake    atomic.Pointer[intake.Intake]   // nil until it is made
	loki      atomic.Pointer[lokiapi.API]     // nil until it is made
	others    *others
	answers   *answers.Room
	hub       *ui.Hub
	api       *api.API
	// eventMark says whether events came.
	eventMark eventMark

	integrity *integrity
	snapshots *snapshots
	archive   *logArchive
	retention *retentionKeeper
	selectors *selectorKeeper
	self      *selfmon.Monitor

	agentsListener, httpListener net.Listener

	opened   chan struct{}   // closed once node is set or will never be
	settled  atomic.Bool     // the setup is done
	member   chan struct{}   // closed when it is
	ctx      context.Context // ends with Stop
	cancel   context.CancelFunc
	work     sync.WaitGroup
	fatal    chan error
	leading  chan bool
	stopOnce sync.Once
	stopErr  error
	stack    []teardown
}

// teardown is one step of Stop.
type teardown struct {
	name string
	fn   func(context.Context) error
}

// onStop notes what ends a part that was begun; the last noted is ended first.
func (a *App) onStop(name string, fn func(context.Context) error) {
	a.stack = append(a.stack, teardown{name, fn})
}

// New opens the node that the configuration describes: its data directory, its listeners, its stores and its place
// in the log. Nothing is served yet. When it fails, everything it opened is closed again.
func New(cfg Config, opts Options) (_ *App, err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Level == nil {
		opts.Level = new(slog.LevelVar)
	}
	a := &App{cfg: cfg, given: cfg, level: opts.Level, certs: newListenerCerts(), version: opts.Version, fatal: make(chan error, 1), leading: make(chan bool, 1), opened: make(chan struct{}), member: make(chan struct{})}
	if opts.Context == nil {
		opts.Context = context.Background()
	}
	a.ctx, a.cancel = context.WithCancel(opts.Context)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Stop(context.Background()))
		}
	}()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	release, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	a.onStop("lock", func(context.Context) error { return release() })
	if err := a.listen(); err != nil {
		return nil, err
	}
	if err := a.cfg.Resolve(); err != nil {
		return nil, err
	}
	if err := errors.Join(a.cfg.Removed(), a.cfg.recovering()); err != nil {
		return nil, err
	}
	a.quiet, a.ownLines = opts.Log.With("node", a.cfg.NodeID), selfmon.NewBuffer()
	a.rootLog = slog.New(selfmon.NewHandler(opts.Log.Handler(), a.ownLines))
	a.log = a.rootLog.With("node", a.cfg.NodeID)
	if a.identity, err = a.cfg.loadIdentity(a.log); err != nil {
		return nil, err
	}
	if a.identity.ID() != a.cfg.NodeID {
		return nil, fmt.Errorf("the certificate in %s is for node %q, this is node %q", a.cfg.TLS.Dir, a.identity.ID(), a.cfg.NodeID)
	}
	if a.keys, err = openKeys(a.cfg.TLS.Dir); err != nil {
		return nil, err
	}
	a.keys.app = a
	a.agentCAs = &agentCAs{app: a}
	if a.setup, err = readSetup(a.cfg.DataDir); err != nil {
		return nil, err
	}
	a.registry = prometheus.NewRegistry()
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	a.state = newLateState()
	a.onStop("state", func(context.Context) error { a.state.open(nil); return nil }) // frees whoever still waits for it
	if err := a.openStores(opts.CompactEvery); err != nil {
		return nil, err
	}
	a.auth = auth.New(auth.Config{
		Meta: &metadata{app: a}, Log: a.part("auth"), Password: opts.PasswordCost,
		SessionIdle: time.Duration(a.cfg.Access.SessionIdle), SessionMax: time.Duration(a.cfg.Access.SessionMax),
	})
	a.onStop("auth", func(context.Context) error { return a.auth.Close() })
	a.configs = agentconfig.New(&metadata{app: a})
	a.view = fleet.New(fleet.Config{
		Directory: a.state, Registry: a.state.registry(), Wanted: a.configs.Wanted, Warmer: &warmer{app: a}, Log: a.part("fleet"),
	})
	a.lines = ui.NewLineFeed()
	a.cluster = &clusterView{app: a}
	a.others, a.answers = newOthers(a), answers.NewRoom(0)
	a.disk = &diskGauge{app: a}
	a.retention = &retentionKeeper{app: a}
	a.selectors = newSelectorKeeper(a)
	a.alerts = a.newAlerts()
	if a.events, err = a.newEvents(); err != nil {
		return nil, err
	}
	if a.queue, err = a.newQueue(); err != nil {
		return nil, err
	}
	if a.repairs, err = a.newRepairs(); err != nil {
		return nil, err
	}
	if err := a.openNodeWaiting(); err != nil {
		return nil, err
	}
	a.queue.Start()
	a.onStop("queue", func(context.Context) error { return a.queue.Close() })
	a.eventMark.begin(a.logs.Applied())
	if a.cfg.SelfMonitoring {
		a.events.Start()
	}
	a.onStop("events", func(context.Context) error { return a.events.Close() })
	a.alerts.Start()
	a.onStop("alerting", func(context.Context) error { return a.alerts.Close() })
	a.view.Start()
	a.onStop("fleet", func(context.Context) error { return a.view.Close() })
	return a, a.openServices()
}

// openNodeWaiting is openNode; whoever asks meanwhile, which may take as long as a repair, is told to wait.
func (a *App) openNodeWaiting() error {
	room := a.openWaitingRoom()
	defer room.close()
	return a.openNode()
}

func (a *App) part(name string) *slog.Logger { return a.log.With("part", name) }

// listen takes the ports for agents and browsers before anything slow begins. A port 0 becomes the one that was
// given.
func (a *App) listen() (err error) {
	l := &a.cfg.Listen
	if a.agentsListener, err = net.Listen("tcp", l.Agents.Address); err != nil {
		return fmt.Errorf("listen for agents: %w", err)
	}
	a.onStop("agents listener", func(context.Context) error { return closed(a.agentsListener.Close()) })
	if a.httpListener, err = net.Listen("tcp", l.HTTP.Address); err != nil {
		return fmt.Errorf("listen for browsers: %w", err)
	}
	a.onStop("http listener", func(context.Context) error { return closed(a.httpListener.Close()) })
	l.Agents.Address = withPort(l.Agents.Address, a.agentsListener.Addr())
	l.HTTP.Address = withPort(l.HTTP.Address, a.httpListener.Addr())
	return nil
}

func withPort(address string, got net.Addr) string {
	host, _, _ := net.SplitHostPort(address)
	_, port, _ := net.SplitHostPort(got.String())
	return net.JoinHostPort(host, port)
}

// closed passes over that something is closed already.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// openStores says how the memory is shared and makes the stores; the node opens them in their directories.
func (a *App) openStores(compactEvery time.Duration) (err error) {
	a.memory = a.cfg.limitMemory(a.log)
	a.metrics, err = tsdb.New(tsdb.Options{
		Dictionary: a.state, Logger: a.part("tsdb"), Registerer: a.registry, Stagger: a.stagger(3 * time.Minute), CompactEvery: compactEvery,
		OnDamage: func(d *tsdb.DamageError) { a.integrity.metricsDamaged(d) },
	})
	if err != nil {
		return err
	}
	a.guard = newLogGuard(a)
	a.logs, err = logstore.New(logstore.Options{
		Log: a.part("logstore"), CacheBytes: int64(a.cfg.Logs.CacheBytes), NoIndex: !a.cfg.Logs.WordIndex, SealAge: time.Duration(a.cfg.Logs.SealAge),
		OnDamage: a.guard.damaged, OnFallback: a.guard.fellBack, OnIndex: func(day int64, why error) { a.integrity.indexChanged(day, why) },
		Queries: a.cfg.Limits.LogQueries, QueryBytes: int64(a.cfg.Limits.LogQueryMemory),
		MemTableBytes: a.memory.memTable, SealBytes: a.memory.seal, OutlineBytes: a.memory.outlines,
	})
	if err != nil {
		return errors.Join(err, a.metrics.Close())
	}
	if err := errors.Join(a.registry.Register(logLoad{a.logs}), a.registry.Register(&logsCollector{store: a.logs})); err != nil {
		return errors.Join(err, a.metrics.Close(), a.logs.Close())
	}
	a.integrity = newIntegrity(a)
	a.onStop("stores", func(context.Context) error { return errors.Join(a.metrics.Close(), a.logs.Close()) })
	a.query = tsdb.NewQuery(a.metrics, tsdb.QueryOptions{
		Logger: a.part("promql"), Registerer: a.registry, Timeout: time.Duration(a.cfg.Limits.QueryTimeout),
		MaxSamples: a.cfg.Limits.QuerySamples, Concurrent: a.cfg.Limits.Queries,
	})
	a.onStop("query engine", func(context.Context) error { return a.query.Close() })
	return nil
}

// stagger is a node's own share of the span, so that nodes do not do the same work at the same moment.
func (a *App) stagger(span time.Duration) time.Duration {
	return time.Duration(wire.HashContent([]byte(a.cfg.NodeID)) % uint64(span))
}

// openNode takes the node's place in the log. From here on entries are applied.
func (a *App) openNode() (err error) {
	a.decoded = wire.NewDecoded(decodedBytes)
	cfg := raftstate.Config{
		NodeID: a.cfg.NodeID, DataDir: a.cfg.DataDir, Decoded: a.decoded,
		Listen: a.cfg.Listen.Peer.Address, Advertise: a.cfg.Listen.Peer.Advertise,
		Identity: a.peerIdentity(), PeerHandler: a.cluster.peerHandler(), Repairs: a.repairs,
		QueueBytes: a.queueBytes(), QueueAge: time.Duration(a.cfg.Queue.Retention.Time),
		MarkInterval: time.Duration(a.cfg.Queue.MarkInterval), MaxInFlight: int64(a.cfg.Queue.BytesInFlight),
		LogCache: int64(a.cfg.Queue.CacheBytes), OnFatal: a.fail, OnLeadership: a.lead,
		MakesRoom: a.retention.makesRoom,
		Logger:    a.rootLog, Registerer: a.registry,
	}
	if a.setup != nil {
		cfg.Bootstrap, cfg.Founding = a.setup.Members, a.setup.Founding
	}
	// The sinks need the state that Open makes, and entries are applied before it returns: what is asked of the
	// state until then waits.
	sinks := raftstate.Sinks{Metrics: a.metrics, Logs: a.logs, Observers: []raftstate.Observer{&observer{app: a}}}
	if a.node, err = raftstate.Open(a.ctx, cfg, sinks); err != nil {
		return fatalCause(err)
	}
	a.onStop("node", func(context.Context) error { return a.node.Close() })
	a.state.open(a.node.State())
	close(a.opened)
	return nil
}

// isOpen waits until the node is there. Peers may ask before Open has returned it.
func (a *App) isOpen(ctx context.Context) bool {
	select {
	case <-a.opened:
		return true
	case <-ctx.Done():
		return false
	}
}

// openServices makes what answers agents and browsers.
func (a *App) openServices() error {
	coder, err := wire.NewCoder()
	if err != nil {
		return err
	}
	redactor, err := a.cfg.Redaction.redactor(a.registry)
	if err != nil {
		return err
	}
	taken := intake.New(intake.Options{Cluster: a.node, Coder: coder, Metrics: a.registry, Redactor: redactor})
	a.intake.Store(taken)
	if a.self, err = a.newSelfMonitor(taken); err != nil {
		return err
	}
	a.onStop("self-monitoring", func(context.Context) error { return a.self.Close() })
	gate := gateway.New(gateway.Options{
		Cluster: a.node, State: a.state, Auth: a.auth, Coder: coder, Decoded: a.decoded, ClusterID: a.identity.ClusterID(),
		Certificates: a.agentCAs, Configs: a.configs, NodeCA: a.identity.CAPEM(), Log: a.part("gateway"), Metrics: a.registry,
		Redactor: redactor, Intake: taken, Unusable: a.checkReplay,
		Problem: problemOf, OnCloned: a.agentCloned, OnOverload: a.agentOverloads, Timeout: time.Duration(a.cfg.Listen.Agents.Timeout),
		BytesInFlight: int64(a.cfg.Listen.Agents.BytesInFlight), RegisterRate: rate.Limit(a.cfg.Listen.Agents.RegisterRate),
	})
	a.gateway.Store(gate)
	a.onStop("gateway", func(context.Context) error { return gate.Close() })
	a.hub = ui.NewHub(ui.Config{
		Gate: live.NewGate(a.auth, a.origins), Hosts: live.Hosts{View: a.view}, Ranges: &ranges{a.query, a.checkReplay},
		Cluster: live.Cluster{Source: a.cluster}, Alerts: &live.Alerts{Source: a.alerts}, Agents: live.Agents{View: a.view}, Tail: lineTails(a.logs, a.others, a.state.LogTime), Events: eventTails(a.logs, a.others, a.state.LogTime), Lines: a.lines,
		Node: a.cfg.NodeID, Log: a.part("live"), Registerer: a.registry, MaxConnections: a.cfg.Limits.LiveClients,
	})
	a.onStop("live hub", func(context.Context) error { return a.hub.Close() })
	a.snapshots = newSnapshots(a)
	a.onStop("snapshots", a.snapshots.close)
	if err := a.registry.Register(a.snapshots); err != nil {
		return fmt.Errorf("register metrics of backups: %w", err)
	}
	if a.archive, err = newLogArchive(a); err != nil {
		return err
	}
	a.onStop("archive of lines", a.archive.close)
	if err := a.registry.Register(a.archive); err != nil {
		return fmt.Errorf("register metrics of the archive of lines: %w", err)
	}
	if err := a.registry.Register(a.integrity.scrubber); err != nil {
		return fmt.Errorf("register metrics of the search for damage: %w", err)
	}
	if err := a.registry.Register(a.retention); err != nil {
		return fmt.Errorf("register metrics of disk and retention: %w", err)
	}
	logs := &wholeLogs{&logQueries{a.logs}, a.others, a.others.forHints()}
	a.api, err = api.New(api.Config{
		Auth: a.auth, Reads: &reads{a.node}, Logs: logs, Events: logs, Fleet: a.view, Cluster: a.cluster, Alerts: a.alerts, Checks: a.parts,
		Snapshots: a.snapshots, LogArchive: a.archive, Audit: auditlog.New(a.state), AgentConfigs: a.configs, AgentCAs: a, Retention: a.retention, Queue: a.queue, Keys: a.keys, Membership: a, Upgrades: a, Integrity: a.integrity,
		Prometheus: promapi.New(promapi.Options{
			Query: a.query, Logger: a.part("promapi"), Registerer: a.registry, Gatherer: a.registry, Version: a.version,
			Retention: a.retention.metricsAge, Rules: a.promRules,
		}),
		Loki: a.openLoki(), Live: a.hub, Intake: taken, Assets: ui.NewAssets(), Metrics: promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}),
		Unusable: a.checkReplay, Asking: asking, Repairs: a, Answers: a.answers,
		Errors: errorRules(), Origins: a.cfg.Listen.HTTP.Origins, Log: a.part("api"), Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	return a.openSyslog(coder, redactor)
}

// origins are asked by the hub, which is made before the API.
func (a *App) origins() []string { return a.api.Origins() }

// Start begins to serve and to do what the setup asks. It returns at once; when it fails, Stop must be called.
func (a *App) Start() error {
	agentsTLS, err := a.listenerTLS(a.certs[0])
	if err != nil {
		return err
	}
	gate := a.gateway.Load()
	agents := gateway.NewServer(gate.Handler(), time.Duration(a.cfg.Listen.Agents.Timeout), a.part("gateway"))
	agents.TLSConfig = gate.TLS(agentsTLS)
	a.serve("agents server", agents, gate.Listen(gateway.Limit(a.agentsListener, a.cfg.Listen.Agents.MaxConnections)))

	browsers := api.NewServer(a.api, a.part("api"))
	if !a.cfg.Listen.HTTP.PlainHTTP {
		if browsers.TLSConfig, err = a.listenerTLS(a.certs[1]); err != nil {
			return err
		}
	}
	a.serve("http server", browsers, gateway.Limit(a.httpListener, a.cfg.Listen.HTTP.MaxConnections))

	background, cancel := context.WithCancel(a.ctx)
	a.onStop("background work", func(context.Context) error { cancel(); a.work.Wait(); return nil })
	a.work.Go(func() { a.identity.Run(background, a.part("pki")) })
	a.work.Go(func() { a.settleIn(background) })
	a.work.Go(func() { a.keepHouse(background) })
	a.work.Go(func() { a.selectors.run(background) })
	a.work.Go(func() { a.keepMembers(background) })
	a.work.Go(func() { a.watchMembership(background) })
	a.work.Go(func() { a.followKeys(background) })
	a.work.Go(func() { a.snapshots.Run(background) })
	a.work.Go(func() { a.archive.Run(background) })
	a.work.Go(func() { a.archive.rooms.Run(background) })
	if a.cfg.SelfMonitoring {
		a.self.Start()
	}
	a.work.Go(func() { a.integrity.scrubber.Run(background) })
	a.work.Go(func() { a.guard.run(background) })
	a.work.Go(func() { a.repairs.Run(background) })
	a.work.Go(func() { watchdog(background, a.log, func() bool { return a.node.Status().Fatal == "" }) })
	a.log.Info("serving", "url", a.cfg.Listen.HTTP.URL, "agents", a.cfg.Listen.Agents.Advertise, "peers", a.cfg.Listen.Peer.Advertise)
	return nil
}

// serve runs an HTTP server over TLS when it has a configuration for it.
func (a *App) serve(name string, s *http.Server, ln net.Listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if s.TLSConfig != nil {
			err = s.ServeTLS(ln, "", "")
		} else {
			err = s.Serve(ln)
		}
		if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			a.fail(fmt.Errorf("%s: %w", name, err))
		}
	}()
	a.onStop(name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, shutdownPatience)
		defer cancel()
		err := s.Shutdown(ctx)
		if err != nil { // somebody holds on to a request: cut it
			err = s.Close()
		}
		<-done
		return closed(err)
	})
}

// shutdownPatience is how long requests under way may take to end.
const shutdownPatience = 3 * time.Second

// fail ends Run with the error.
func (a *App) fail(err error) {
	select {
	case a.fatal <- fatalCause(err):
	default:
	}
}

// Stop ends the node in the reverse order of how it began, and waits for it. It is idempotent.
func (a *App) Stop(ctx context.Context) error {
	a.stopOnce.Do(func() {
		var errs []error
		a.cancel()
		for i := len(a.stack) - 1; i >= 0; i-- {
			if err := a.stack[i].fn(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", a.stack[i].name, err))
			}
		}
		a.stopErr = errors.Join(errs...)
	})
	return a.stopErr
}

// Run starts the node and serves until ctx ends or something fails for good. When that is the disk, it returns at once
// and takes nothing down: the process must end, since whatever ended in an orderly way would write and sync once more.
func (a *App) Run(ctx context.Context) error {
	if err := a.Start(); err != nil {
		return errors.Join(err, a.Stop(context.Background()))
	}
	a.work.Go(a.sayReady)
	select {
	case <-ctx.Done():
		a.log.Info("stopping")
		notifySystemd(a.log, "STOPPING=1")
		return a.Stop(context.Background())
	case err := <-a.fatal:
		if diskFailed(err) {
			return err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = a.Stop(context.Background())
		}()
		patience := time.NewTimer(shutdownPatience)
		defer patience.Stop()
		select {
		case <-done:
		case <-patience.C:
		}
		return err
	}
}

// readyPatience is how long the service manager waits for a node that cannot become a member, because too few of the
// others are up: it serves all the same.
const readyPatience = 20 * time.Second

// sayReady tells the service manager that the node serves, once it is a member that has caught up: whoever starts nodes
// one after the other can go on with the next.
func (a *App) sayReady() {
	patience := time.NewTimer(readyPatience)
	defer patience.Stop()
	select {
	case <-a.member:
	case <-patience.C:
		a.log.Warn("not a member yet: too few of the other nodes can be reached")
	case <-a.ctx.Done():
		return
	}
	notifySystemd(a.log, "READY=1")
}

// Config returns the configuration in effect, with the ports that were given.
func (a *App) Config() Config { return a.cfg }

// Node returns the node's place in the log, for tests and tools that look inside.
func (a *App) Node() *raftstate.Node { return a.node }

// Logs is the store of lines, for tests.
func (a *App) Logs() *logstore.Store { return a.logs }

// Metrics returns the node's store of samples, for tests and tools that look inside.
func (a *App) Metrics() *tsdb.Store { return a.metrics }

// dataPath is a directory of the data directory.
func (a *App) dataPath(name string) string { return filepath.Join(a.cfg.DataDir, name) }
