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
	heartbeatFlush   = time.Second
	maxHeartbeatSize = 16 << 10
	maxHeartbeats    = 10_000
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
	g.beats.note(agent.ID, status)
	return writeJSON(w, map[string]any{"server_time_ms": time.Now().UnixMilli(), "config_version": 0})
}

// heartbeats gathers the newest heartbeat of each agent and proposes them together.
type heartbeats struct {
	cluster Cluster
	log     *slog.Logger
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once

	mu   sync.Mutex
	next map[string]json.RawMessage
}

func newHeartbeats(c Cluster, log *slog.Logger) *heartbeats {
	h := &heartbeats{
		cluster: c, log: log, stop: make(chan struct{}), done: make(chan struct{}),
		next: make(map[string]json.RawMessage),
	}
	go h.run()
	return h
}

func (h *heartbeats) note(agent string, status json.RawMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.next[agent]; known || len(h.next) < maxHeartbeats {
		h.next[agent] = status
	}
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

// flush proposes what was gathered, in commands that each fit in an entry.
func (h *heartbeats) flush() {
	h.mu.Lock()
	gathered := h.next
	h.next = make(map[string]json.RawMessage)
	h.mu.Unlock()
	if len(gathered) == 0 {
		return
	}
	var cmds []command.Command
	var part []command.Heartbeat
	size := 0
	for agent, status := range gathered {
		part = append(part, command.Heartbeat{Agent: agent, Status: status})
		if size += len(status) + len(agent); size > 128<<10 {
			cmds = append(cmds, command.NewHeartbeats(part))
			part, size = nil, 0
		}
	}
	if len(part) > 0 {
		cmds = append(cmds, command.NewHeartbeats(part))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, _, err := h.cluster.Propose(ctx, cmds...); err != nil {
		h.log.Warn("heartbeats not passed on", "agents", len(gathered), "err", err)
	}
}

func (h *heartbeats) close() error {
	h.once.Do(func() { close(h.stop) })
	<-h.done
	return nil
}
