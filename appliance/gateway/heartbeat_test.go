package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/triward/triward/raftstate/command"
)

// beatLog takes heartbeats as the log does, and refuses what no entry holds.
type beatLog struct {
	*direct
	mu    sync.Mutex
	beats map[string]string
	fail  error
	calls int
}

func (b *beatLog) Propose(ctx context.Context, cmds ...command.Command) (uint64, []command.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.fail != nil {
		return 0, nil, b.fail
	}
	size := command.Overhead
	for i := range cmds {
		size += cmds[i].Size()
		list, err := command.DecodeHeartbeats(cmds[i])
		if err != nil {
			return 0, nil, err
		}
		for _, h := range list {
			b.beats[h.Agent] = string(h.Status)
		}
	}
	if size > command.MaxEntry {
		return 0, nil, errTooLarge
	}
	return 1, make([]command.Result, len(cmds)), nil
}

func (b *beatLog) told(agent string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.beats[agent]
}

func (b *beatLog) setFail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

func TestHeartbeatsOfAWholeFleetArrive(t *testing.T) {
	log := &beatLog{beats: map[string]string{}}
	h := newHeartbeats(log, slog.New(slog.DiscardHandler))
	defer h.close()
	large := `{"pad":"` + strings.Repeat("x", 12<<10) + `"}`
	for i := range 500 { // 6 MiB
		if !h.note(fmt.Sprintf("large%d", i), json.RawMessage(large)) {
			t.Fatalf("heartbeat %d is not taken", i)
		}
	}
	for i := range 2 * command.MaxHeartbeats { // more than one command may hold
		h.note(fmt.Sprintf("small%d", i), json.RawMessage(`{}`))
	}
	h.flush()
	until(t, "all are passed on", func() bool {
		log.mu.Lock()
		defer log.mu.Unlock()
		return len(log.beats) == 500+2*command.MaxHeartbeats
	})
}

func TestHeartbeatsThatFailedAreTriedAgain(t *testing.T) {
	log := &beatLog{beats: map[string]string{}, fail: errNoLeader}
	h := newHeartbeats(log, slog.New(slog.DiscardHandler))
	defer h.close()
	h.note("a", json.RawMessage(`{"n":1}`))
	h.note("b", json.RawMessage(`{"n":1}`))
	h.flush()
	h.note("b", json.RawMessage(`{"n":2}`))
	h.flush()
	if kept := h.putBack([][]command.Heartbeat{{{Agent: "b", Status: json.RawMessage(`{"n":0}`)}}}); kept > 1 {
		t.Error(kept)
	}
	log.setFail(nil)
	until(t, "both are passed on", func() bool {
		h.flush()
		return log.told("a") == `{"n":1}` && log.told("b") != ""
	})
	if got := log.told("b"); got != `{"n":2}` {
		t.Errorf("b says %s at last", got)
	}
}

func TestHeartbeatsAreBounded(t *testing.T) {
	h := &heartbeats{next: map[string]json.RawMessage{}}
	large := json.RawMessage(`{"pad":"` + strings.Repeat("x", 15<<10) + `"}`)
	n := 0
	for h.note(fmt.Sprint(n), large) {
		n++
	}
	if h.bytes > maxHeartbeatBytes || n < 1000 {
		t.Errorf("%d heartbeats of %d bytes", n, h.bytes)
	}
	if !h.note("0", json.RawMessage(`{}`)) || !h.note("new", json.RawMessage(`{}`)) {
		t.Error("a smaller one made no room")
	}
	got := h.takeAll()
	if h.bytes != 0 || len(got) != n+1 {
		t.Errorf("%d bytes are left of %d heartbeats", h.bytes, len(got))
	}
}
