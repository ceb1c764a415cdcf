package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/triward/triward/agent/wire"
)

// Kinds of subscriptions that this hub serves.
const (
	KindHosts   = "hosts"
	KindPromQL  = "promql"
	KindTail    = "logs.tail"
	KindCluster = "cluster"
	KindAlerts  = "alerts"
	KindEvents  = "events"
	KindAgents  = "agents"
)

// Kinds lists the kinds of subscriptions.
func Kinds() []string {
	return []string{KindHosts, KindPromQL, KindTail, KindCluster, KindAlerts, KindEvents, KindAgents}
}

// Viewer is who holds a connection. Equal viewers are the same session of the same user with the same role.
type Viewer struct {
	User string // counted against the bound of connections per user
	Role string
	Key  string // names the session without being its secret
}

// Gate decides who may connect and subscribe. Its methods are called often and must be quick; all may be called at
// any time from any goroutine.
type Gate interface {
	// Viewer returns who makes the request, or false when nobody known does.
	Viewer(r *http.Request) (Viewer, bool)
	// Recheck returns the viewer as of now, or false once the session or token is void.
	Recheck(v Viewer) (Viewer, bool)
	// May reports whether the viewer may subscribe to the kind.
	May(v Viewer, kind string) bool
	// Watch returns a channel that receives after sessions may have ended or roles changed.
	Watch() (changes <-chan struct{}, stop func())
	// Origins returns the origins ("https://host:port") whose pages may connect.
	Origins() []string
}

// Host is one row of the hosts view, encoded as a JSON object.
type Host struct {
	ID  string
	Row json.RawMessage
}

// HostsSource gives the hosts view.
type HostsSource interface {
	// Hosts returns all rows in ascending order of ID: with the sparklines when full, else with the newest point
	// of them under "point". The rows belong to the caller.
	Hosts(full bool) ([]Host, error)
}

// Series is one series of a range query: its points ascend in time and lie on the grid that was asked for. Points
// without a value are absent.
type Series struct {
	Labels map[string]string
	T      []int64 // milliseconds since 1970
	V      []float64
}

// RangeQuerier evaluates PromQL.
type RangeQuerier interface {
	// QueryRange evaluates the query at start, start+step and so on up to and including end, in milliseconds. A
	// query that cannot be read is a *QueryError.
	QueryRange(ctx context.Context, query string, start, end, step int64) ([]Series, error)
}

// ClusterSource gives the state of the cluster.
type ClusterSource interface {
	// Cluster returns the body of GET /v1/cluster.
	Cluster(ctx context.Context) (json.RawMessage, error)
}

// AlertsSource gives the alerts that are not over.
type AlertsSource interface {
	// Alerts returns a row for each alert, the worst first. The rows are not changed any more.
	Alerts(ctx context.Context) ([]Host, error)
}

// AgentsSource gives the agents.
type AgentsSource interface {
	// Agents returns a row for each agent in ascending order of ID. The rows belong to the caller.
	Agents(ctx context.Context) ([]Host, error)
}

// QueryError says where in a query an error is.
type QueryError struct {
	Pos     int // byte offset, negative when unknown
	Message string
}

// Error returns the message.
func (e *QueryError) Error() string { return e.Message }

// Position of a line in the log of the cluster: unique, the same on every node and ascending.
type Position struct {
	Index uint64
	Ord   uint32
}

// String returns the position as cursors carry it.
func (p Position) String() string {
	return strconv.FormatUint(p.Index, 10) + "." + strconv.FormatUint(uint64(p.Ord), 10)
}

// Less reports whether p comes before q.
func (p Position) Less(q Position) bool {
	return p.Index < q.Index || p.Index == q.Index && p.Ord < q.Ord
}

// ParsePosition reads what String wrote.
func ParsePosition(s string) (Position, error) {
	index, ord, ok := strings.Cut(s, ".")
	i, err1 := strconv.ParseUint(index, 10, 64)
	o, err2 := strconv.ParseUint(ord, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return Position{}, fmt.Errorf("position %.40q: want <index>.<ordinal>", s)
	}
	return Position{i, uint32(o)}, nil
}

// Row is one line of a tail, encoded as in the answer of /v1/logs/query.
type Row struct {
	Pos Position
	Row json.RawMessage
}

// Line is one line on its way from Apply to the tails. What it points to belongs to whoever got it and is not
// changed any more.
type Line struct {
	Pos    Position
	Kind   wire.StreamKind
	Labels wire.Labels
	wire.LogLine
}

// Matcher is a query ready to be asked of single lines. It is used from one goroutine.
type Matcher interface {
	// Match returns the line, as the query makes it, in the form of a Row, and whether it is of the query. What it returns after
	// ctx has ended means nothing.
	Match(ctx context.Context, l *Line) (json.RawMessage, bool)
}

// Lack says why the first lines of a tail may not be all that there are.
type Lack string

// Reasons of a Lack.
const (
	LackNothing Lack = ""        // they are all
	LackDamaged Lack = "damaged" // parts of the store are, and no other node had the lines
	LackTime    Lack = "time"    // looking for them takes longer than is waited for
)

// TailSource answers what a live tail asks of the log store.
type TailSource interface {
	// Compile reads the query; one that cannot be read is a *QueryError. Queries that need more than one line
	// are refused.
	Compile(query string) (Matcher, error)
	// Newest returns the newest n lines that match, or as many of them as it finds in the time that it takes for it, in
	// ascending order of position, and why there may be others.
	Newest(ctx context.Context, query string, n int) ([]Row, Lack, error)
	// ReadAfter returns up to limit lines that match and come after the position, in ascending order of
	// position. complete is false when there may be more, or when lines after the position are gone or too far
	// to be looked for.
	ReadAfter(ctx context.Context, query string, after Position, limit int) (rows []Row, complete bool, err error)
}
