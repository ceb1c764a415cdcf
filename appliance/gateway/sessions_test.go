package gateway

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/appliance/auth"
)

// revocable knows of one agent.
type revocable struct {
	Auth
	revoked atomic.Bool
}

func (r *revocable) Agent(string) (*auth.Agent, uint64, error) {
	return &auth.Agent{Revoked: r.revoked.Load()}, 1, nil
}

// The connections of an agent that is revoked are cut at once where the change is told, and by the next look, well within five
// seconds, where it is not, as after an install.
func TestConnectionsOfTheRevokedAreCutInTime(t *testing.T) {
	for told, within := range map[bool]time.Duration{true: 0, false: 4 * time.Second} {
		for moment := range 10 * time.Second / time.Second { // wherever it lies between two looks
			synctest.Test(t, func(t *testing.T) { revokeAt(t, time.Second+moment*time.Second, told, within) })
		}
	}
}

func revokeAt(t *testing.T, moment time.Duration, told bool, within time.Duration) {
	agents := &revocable{}
	g := &Gateway{opts: Options{Auth: agents, Log: slog.New(slog.DiscardHandler)}}
	g.sessions = newSessions(g)
	defer g.sessions.close()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	conn := &agentConn{Conn: ours, sessions: g.sessions}
	g.sessions.mu.Lock()
	g.sessions.open[conn] = holder{"a1", "1"}
	g.sessions.mu.Unlock()
	_ = theirs.SetReadDeadline(time.Now().Add(moment))
	if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("of an agent that is not revoked: %v", err)
	}
	_ = theirs.SetReadDeadline(time.Time{})
	synctest.Wait()
	agents.revoked.Store(true)
	if told {
		g.Changed()
	}
	revoked := time.Now()
	if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("told: %t: %v", told, err)
	}
	if after := time.Since(revoked); after > within {
		t.Errorf("told: %t: it was cut after %s", told, after)
	}
}
