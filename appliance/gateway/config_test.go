package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/triward/triward/appliance/agentconfig"
)

func (r *rig) get(path string) (int, []byte) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, b
}

// Of a group that asks at once nobody waits for more than the work that runs and the one after it.
func TestManyCatchUpTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTogether()
		runs, begun := 0, make(chan struct{})
		release := make(chan struct{})
		work := func(context.Context) error {
			runs++
			close(begun)
			<-release
			return nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = w.do(t.Context(), work) })
		<-begun
		begun = make(chan struct{})
		gone, cancel := context.WithCancel(t.Context())
		for i := range 100 {
			ctx := t.Context()
			if i%10 == 3 {
				ctx = gone
			}
			wg.Go(func() {
				if err := w.do(ctx, work); err != nil && ctx == t.Context() {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		cancel()
		close(release)
		wg.Wait()
		if runs != 2 {
			t.Errorf("it was done %d times", runs)
		}
	})
}

// That the first of those who wait together goes away costs the others nothing.
func TestOthersCatchUpWithoutTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTogether()
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { _ = w.do(t.Context(), func(context.Context) error { <-release; return nil }) })
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		did := false
		work := func(ctx context.Context) error { did = true; return ctx.Err() }
		wg.Go(func() { _ = w.do(gone, work) })
		synctest.Wait()
		wg.Go(func() {
			if err := w.do(t.Context(), work); err != nil {
				t.Errorf("who waits for what another asked for first: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()
		if !did {
			t.Error("it was not done")
		}
	})
}

// What a text says with aliases is not written out: it could be longer than agents take.
func TestAliasesAreNotWrittenOut(t *testing.T) {
	list := "logs: {files: [&a {include: [/var/log/x, /var/log/y]}" + strings.Repeat(", *a", 10_000) + "]}\n"
	if got := asJSON(list); string(got) != "null" {
		t.Errorf("%d bytes of JSON for %d of YAML", len(got), len(list))
	}
	if got := asJSON("journal: {units: [a]}\n"); string(got) != `{"journal":{"units":["a"]}}` {
		t.Errorf("%s", got)
	}
}

// An agent learns by its heartbeat that its group has another configuration, and gets it, and only its own.
func TestConfigurationOfAnAgent(t *testing.T) {
	r := newRig(t)
	configs := agentconfig.New(asMeta{r.cluster})
	if code, _ := r.get("/agent/config"); code != http.StatusUnauthorized {
		t.Errorf("without a certificate: %d", code)
	}
	r.enroll(r.token(1))
	beat := func() (a heartbeatAnswer) {
		t.Helper()
		r.json("/agent/heartbeat", map[string]any{}, &a)
		return a
	}
	if a := beat(); !a.Config || a.Version != 0 || a.Hash != "" || a.ServerTime == 0 {
		t.Errorf("with nothing set a heartbeat is answered %+v", a)
	}
	var got configAnswer
	fetch := func(query string) int {
		t.Helper()
		code, b := r.get("/agent/config" + query)
		got = configAnswer{}
		_ = json.Unmarshal(b, &got)
		return code
	}
	if code := fetch("?agent_id=" + r.agent); code != http.StatusOK || got.Version != 0 || got.Agent != r.agent {
		t.Errorf("with nothing set: %d %+v", code, got)
	}
	body := "metrics: {period: 30s}\nlogs: {files: [{include: [/var/log/x], labels: {1: one}}]}\n"
	if _, err := configs.Put(t.Context(), agentconfig.DefaultGroup, agentconfig.Change{Body: body}, agentconfig.By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	if a := beat(); a.Version != 1 || a.Group != "default" || a.Hash == "" {
		t.Errorf("a heartbeat is answered %+v", a)
	}
	if code := fetch(""); code != http.StatusOK || got.Version != 1 || got.Body != body || got.Type != "agent" || !json.Valid(got.Content) {
		t.Errorf("%d %+v", code, got)
	}
	if code := fetch("?agent_id=somebody"); code != http.StatusForbidden {
		t.Errorf("the configuration of another agent: %d", code)
	}
	if err := r.auth.SetAgentGroup(t.Context(), r.agent, "web", "ada", netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if a := beat(); a.Group != "default" {
		t.Errorf("a group without its own: %+v", a)
	}
	if _, err := configs.Put(t.Context(), "web", agentconfig.Change{Body: "journal: {enabled: \"false\"}\n"}, agentconfig.By{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	if a := beat(); a.Group != "web" || a.Version != 1 {
		t.Errorf("its own: %+v", a)
	}
	if code := fetch(""); code != http.StatusOK || got.Group != "web" || string(got.Content) != `{"journal":{"enabled":"false"}}` {
		t.Errorf("%d %+v %s", code, got, got.Content)
	}
}
