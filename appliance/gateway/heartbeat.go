package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
)

const (
	heartbeatFlush    = time.Second
	heartbeatTimeout  = 5 * time.Second // of all that one flush proposes
	maxHeartbeatSize  = command.MaxStatusBody
	maxHeartbeats     = 10_000
	maxHeartbeatBytes = 16 << 20  // of all that are gathered
	heartbeatCommand  = 128 << 10 // a command is closed once it has this many bytes
)

// heartbeat notes that the agent lives. It is passed on with those of other agents once a second: a heartbeat
// lost with this process is made good by the next one, so it is answered at once.
func (g *Gateway) heartbeat(w http.ResponseWriter, r *http.Request, agent *auth.Agent) error {
	var status json.RawMessage
	if err := readJSON(w, r, maxHeartbeatSize, &status); err != nil {
		return err
	}
	if len(status) == 0 || status[0] != '{' {
		return problem.New(http.StatusBadRequest, "a heartbeat is a JSON object")
	}
	if !g.beats.note(agent.ID, status) {
		return problem.New(http.StatusTooManyRequests, "more heartbeats are gathered than can be passed on").WithRetryAfter(5 * time.Second)
	}
	wanted := g.opts.Configs.For(agent.Group)
	return writeJSON(w, heartbeatAnswer{
		ServerTime: time.Now().UnixMilli(), Config: true, Version: wanted.Version, Hash: wanted.Hash, Group: wanted.Group,
	})
}

// heartbeats gathers the newest heartbeat of each agent and proposes them together. One that could not be proposed is
// kept and tried again, unless a newer one of its agent has come.
type heartbeats struct {
	cluster Cluster
	log     *slog.Logger
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once

	mu    sync.Mutex
	next  map[string]json.RawMessage
	bytes int
}

func newHeartbeats(c Cluster, log *slog.Logger) *heartbeats {
	h := &heartbeats{
		cluster: c, log: log, stop: make(chan struct{}), done: make(chan struct{}),
		next: make(map[string]json.RawMessage),
	}
	go h.run()
	return h
}

// note keeps the heartbeat until it is proposed; false when there is no room for it.
func (h *heartbeats) note(agent string, status json.RawMessage) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.noteLocked(agent, status)
}

func (h *heartbeats) noteLocked(agent string, status json.RawMessage) bool {
	old, known := h.next[agent]
	grows := len(agent) + len(status)
	if known {
		grows = len(status) - len(old)
	}
	if !known && len(h.next) >= maxHeartbeats || h.bytes+grows > maxHeartbeatBytes {
		return false
	}
	h.next[agent] = status
	h.bytes += grows
	return true
}

// takeAll empties what was gathered.
func (h *heartbeats) takeAll() map[string]json.RawMessage {
	h.mu.Lock()
	defer h.mu.Unlock()
	gathered := h.next
	h.next, h.bytes = make(map[string]json.RawMessage), 0
	return gathered
}

// putBack keeps heartbeats that were not proposed, but for those that a newer one has replaced.
func (h *heartbeats) putBack(parts [][]command.Heartbeat) (kept int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, part := range parts {
		for _, b := range part {
			if _, newer := h.next[b.Agent]; !newer && h.noteLocked(b.Agent, b.Status) {
				kept++
			}
		}
	}
	return kept
}

func (h *heartbeats) run() {
	defer close(h.done)
	tick := time.NewTicker(heartbeatFlush)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.flush()
		case <-h.stop:
			h.flush()
			return
		}
	}
}

// flush proposes what was gathered, one command an entry at least, so that what is too much for one entry costs nobody
// else a heartbeat. Once one is not taken the rest waits for the next time.
func (h *heartbeats) flush() {
	parts := beatParts(h.takeAll())
	ctx, cancel := context.WithTimeout(context.Background(), heartbeatTimeout)
	defer cancel()
	for i, part := range parts {
		if _, _, err := h.cluster.Propose(ctx, command.NewHeartbeats(part)); err != nil {
			h.log.Warn("heartbeats not passed on, they are tried again", "agents", h.putBack(parts[i:]), "err", err)
			return
		}
	}
}

// beatParts splits heartbeats into what one command each may hold.
func beatParts(gathered map[string]json.RawMessage) [][]command.Heartbeat {
	var parts [][]command.Heartbeat
	var part []command.Heartbeat
	size := 0
	for agent, status := range gathered {
		part = append(part, command.Heartbeat{Agent: agent, Status: status})
		if size += len(status) + len(agent); size > heartbeatCommand || len(part) == command.MaxHeartbeats {
			parts = append(parts, part)
			part, size = nil, 0
		}
	}
	if len(part) > 0 {
		parts = append(parts, part)
	}
	return parts
}

func (h *heartbeats) close() error {
	h.once.Do(func() { close(h.stop) })
	<-h.done
	return nil
}
