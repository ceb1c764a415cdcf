package testcluster

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/triward/triward/appliance/problem"
)

// leaderPatience is for how long a request is repeated while a cluster whose majority runs has no leader.
const leaderPatience = time.Minute

// running counts the nodes of a cluster.
type running struct{ up, down atomic.Int32 }

func (r *running) hasMajority() bool { return r.up.Load() > r.down.Load() }

// patient is a transport that repeats what was refused because there is no leader at the moment, of which nothing was
// done. On a busy machine a leader is lost without any fault, which a test that asks once does not mean. With too few nodes
// up the refusal is what it gets.
type patient struct {
	next    http.RoundTripper
	cluster *running
}

// RoundTrip implements http.RoundTripper.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	deadline := time.NewTimer(leaderPatience)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := p.next.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			return resp, err
		}
		said, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(said))
		again := r.Clone(r.Context())
		if !strings.Contains(string(said), problem.CodeNoQuorum) || !p.cluster.hasMajority() || !rewind(r, again) {
			return resp, nil
		}
		select {
		case <-tick.C:
			r = again
		case <-deadline.C:
			return resp, nil
		case <-r.Context().Done():
			return resp, nil
		}
	}
}

// rewind gives the repetition of a request its body again, where that is possible.
func rewind(r, again *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return true
	}
	if r.GetBody == nil {
		return false
	}
	body, err := r.GetBody()
	again.Body = body
	return err == nil
}

// CloseIdleConnections is for http.Client's method of that name.
func (p *patient) CloseIdleConnections() {
	if t, ok := p.next.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}
