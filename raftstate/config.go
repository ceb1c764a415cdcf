package raftstate

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/machine"
)

// Server names a node and where its peers reach it.
type Server struct {
	ID   string `json:"id"`
	Addr string `json:"addr"` // host:port; in Config.Bootstrap "" means this node's own
}

// Transport replaces the network, for tests.
type Transport struct {
	Raft   raft.Transport
	Caller forward.Caller
	// Serve is told who answers the calls to this node; nil takes it away.
	Serve func(forward.Handler)
	// Pages reaches the pages of other nodes (https://<node id>/path), ServePages is given this node's. Without them a
	// node mends nothing.
	Pages      http.RoundTripper
	ServePages func(http.Handler)
}

// Config of a node. Zero values take the defaults named.
type Config struct {
	NodeID    string // also the name in its certificate; letters, digits, dot and dash
	DataDir   string
	Listen    string // host:port for peers
	Advertise string // host:port that peers are told; Listen when empty
	Identity  *forward.Identity
	Transport *Transport // instead of Listen, Advertise and Identity

	PeerHandler http.Handler // further pages for peers, on the same port
	Bootstrap   []Server     // the members of a new cluster; only looked at when the node has no state
	Repairs     Repairs      // knows of damage; nil: a node that is damaged stops and does not mend itself
	Founding    bool         // another node founds the cluster that this one is of from the beginning: with no state it may vote

	Decoded        *wire.Decoded                   // log bodies that this node has decoded before they are applied; nil for none
	Limits         machine.Limits                  // zero: machine.DefaultLimits
	QueueBytes     int64                           // entries kept behind the mark, in bytes; 2 GiB
	QueueAge       time.Duration                   // and no older than this; no bound when 0
	MarkInterval   time.Duration                   // marks are this to twice this apart; 15 s
	TickInterval   time.Duration                   // log time stands still no longer than this; 5 s
	MaxInFlight    int64                           // bytes of proposals held by this node; 64 MiB
	DiskReserve    int64                           // bytes free below which no data is taken, and nothing below half of them; 192 MiB, negative: not checked
	HungDisk       time.Duration                   // a write to the log that takes longer is fatal, half of it ends leading; 10 s
	InstallPause   time.Duration                   // images are cut at least this far apart; 10 s
	Heartbeat      time.Duration                   // raft's heartbeat time-out; 1 s
	Election       time.Duration                   // raft's election time-out; 1 s
	Lease          time.Duration                   // raft's leader lease; 0.5 s
	LogSegment     int                             // bytes of a segment of the log; 64 MiB
	LogCache       int64                           // bytes of entries kept in memory; 64 MiB
	OnFatal        func(error)                     // called once, in a goroutine of its own; exits with 1 or the error's code when nil
	OnLeadership   func(bool)                      // told that the node became the leader, and is ready, or ceased to be; must not block
	Now            func() time.Time                // the wall clock; time.Now
	FreeBytes      func(dir string) (int64, error) // of the file system of a directory; asks it
	MakesRoom      func() bool                     // while a disk is full: whether what fills it is being removed; must be quick; never when nil
	LogFiles       types.VFS                       // file system of the log's segments, for tests; the machine's
	Logger         *slog.Logger
	Registerer     prometheus.Registerer
	MaxSyncEntries int // raft's MaxAppendEntries; 8

	alone  bool   // the other members are lost: see alone.go
	format uint32 // the greatest that this program applies: machine.Format; tests have others
}

var nodeIDForm = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$`)

func (c *Config) complete() error {
	if !nodeIDForm.MatchString(c.NodeID) || len(c.NodeID) > command.MaxNodeID {
		return fmt.Errorf("node id %q: 1 to 64 letters, digits, dots and dashes are allowed", c.NodeID)
	}
	if c.DataDir == "" {
		return errors.New("data directory is not set")
	}
	if c.Transport == nil && (c.Identity == nil || c.Listen == "") {
		return errors.New("peer address and peer identity are not set")
	}
	if c.Identity != nil && c.Identity.ID != c.NodeID {
		return fmt.Errorf("certificate is for node %q, this is node %q", c.Identity.ID, c.NodeID)
	}
	if c.Limits == (machine.Limits{}) {
		c.Limits = machine.DefaultLimits()
	}
	or(&c.QueueBytes, 2<<30)
	or(&c.MarkInterval, 15*time.Second)
	or(&c.TickInterval, 5*time.Second)
	or(&c.MaxInFlight, 64<<20)
	or(&c.HungDisk, 10*time.Second)
	or(&c.InstallPause, 10*time.Second)
	or(&c.Heartbeat, time.Second)
	or(&c.Election, time.Second)
	or(&c.Lease, 500*time.Millisecond)
	or(&c.MaxSyncEntries, 8)
	or(&c.format, machine.Format)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnFatal == nil {
		c.OnFatal = exit
	}
	return nil
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func exit(err error) {
	code := 1
	var fatal *FatalError
	if errors.As(err, &fatal) {
		code = fatal.Code
	}
	fmt.Fprintln(os.Stderr, "triward:", err)
	os.Exit(code)
}

// raftConfig returns raft's configuration (DESIGN, raftstate, says why these).
func (c *Config) raftConfig() *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.NodeID)
	rc.HeartbeatTimeout = c.Heartbeat
	rc.ElectionTimeout = c.Election
	rc.LeaderLeaseTimeout = c.Lease
	rc.MaxAppendEntries = c.MaxSyncEntries
	rc.BatchApplyCh = true
	rc.NoSnapshotRestoreOnStart = true
	rc.SnapshotInterval = c.MarkInterval
	rc.SnapshotThreshold = 1
	rc.TrailingLogs = minTrailing
	rc.ShutdownOnRemove = false
	rc.NoLegacyTelemetry = true
	rc.Logger = newRaftLogger(c.Logger)
	return rc
}

// minTrailing entries are kept behind the mark whatever their size (at most 16 MiB at the usual 256 KiB).
const minTrailing = 64
