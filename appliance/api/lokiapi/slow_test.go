package lokiapi

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api/answers"
	"github.com/triward/triward/logstore"
)

// watching tells of the first piece that is written, and waits with it.
type watching struct {
	*httptest.ResponseRecorder
	first func()
}

func (w *watching) Write(b []byte) (int, error) {
	if first := w.first; first != nil {
		w.first = nil
		first()
	}
	return w.ResponseRecorder.Write(b)
}

// A client that takes its answer slowly has no place at the store while it does, so that four of them keep nobody from asking; and
// what it has not taken has room of its own, beyond which large answers are refused.
func TestSlowClientsKeepNobodyFromTheStore(t *testing.T) {
	room := answers.NewRoom(1 << 20)
	s := newStand(t, func(o *Options) { o.Answers = room })
	s.fill()
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprint(i, strings.Repeat(" long", 4000)))
	}
	s.apply(stream(map[string]string{"app": "large"}, wire.SeverityInfo, many...))
	ask := func(path string, v string, first func()) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, Prefix+path+"?"+around("query", v, "limit", "1000").Encode(), nil)
		w := &watching{httptest.NewRecorder(), first}
		s.api.ServeHTTP(w, r)
		return w.ResponseRecorder
	}
	for path, v := range map[string]string{
		"query_range": `{app="large"}`, "labels": "", "series": `{app="web"}`, "index/volume": `{app="web"}`, "detected_fields": `{app="web"}`,
	} {
		running := -1
		w := ask(path, v, func() {
			running = s.store.QueryLoad(logstore.LanePeople).Running
			if path != "query_range" {
				return
			}
			if release, err := room.Hold(t.Context(), 1<<20); err == nil {
				t.Error("the answer that is being sent takes no room")
				release()
			}
		})
		if w.Code != http.StatusOK || running != 0 {
			t.Errorf("%s: %d, %d have a place at the store while it is sent: %.200s", path, w.Code, running, w.Body)
		}
	}
	release, err := room.Hold(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if w := ask("query_range", `{app="large"}`, nil); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("beyond the room: %d %.200s", w.Code, w.Body)
	}
	if w := ask("query_range", `{app="web"}`, nil); w.Code != http.StatusOK {
		t.Errorf("a small one: %d %.200s", w.Code, w.Body)
	}
	release()
	if w := ask("query_range", `{app="large"}`, nil); w.Code != http.StatusOK {
		t.Errorf("with room again: %d %.200s", w.Code, w.Body)
	}
}
