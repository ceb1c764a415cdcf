package notify

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/triward/triward/appliance/alerting/route"
)

func message() *Message {
	return &Message{
		Key: "k1", Receiver: "ops", GroupKey: "g/ops", GroupLabels: map[string]string{"alertname": "Hot"}, ExternalURL: "https://t.example", At: 1_700_000_000_000,
		Alerts: []Alert{
			{Firing: true, Labels: map[string]string{"alertname": "Hot", "room": "attic", "severity": "critical"}, Annotations: map[string]string{"summary": "太热了"}, StartsAt: 1_699_999_000_000, Fingerprint: "f1"},
			{Labels: map[string]string{"alertname": "Hot", "room": "cellar", "severity": "critical"}, StartsAt: 1_699_998_000_000, EndsAt: 1_699_999_000_000, Fingerprint: "f2"},
		},
	}
}

func local() *Sender {
	return NewSender(Policy{AllowLoopback: true}, "test", func() time.Time { return time.UnixMilli(1_700_000_000_000) })
}

func web(u string, change func(*route.Webhook)) *route.Integration {
	w := &route.Webhook{URL: u}
	if change != nil {
		change(w)
	}
	return &route.Integration{Name: "webhook/0", Webhook: w}
}

// got is what a test server received.
type got struct {
	header http.Header
	body   []byte
	path   string
	query  url.Values
}

func sink(t *testing.T, answer string) (*httptest.Server, *[]got) {
	t.Helper()
	var all []got
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the sender held it back
		}
		all = append(all, got{r.Header, body, r.URL.Path, r.URL.Query()})
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(srv.Close)
	return srv, &all
}

func TestWebhookIsAlertmanagersForm(t *testing.T) {
	srv, all := sink(t, "ok")
	in := web(srv.URL, func(w *route.Webhook) {
		w.HTTP.Authorization = &route.Authorization{Type: "Bearer", Credentials: "s3cret"}
	})
	if err := local().Send(t.Context(), in, message(), nil); err != nil {
		t.Fatal(err)
	}
	g := (*all)[0]
	if g.header.Get(KeyHeader) != "k1" || g.header.Get("Authorization") != "Bearer s3cret" || g.header.Get("Content-Type") != "application/json" {
		t.Errorf("%v", g.header)
	}
	var b map[string]any
	if err := json.Unmarshal(g.body, &b); err != nil {
		t.Fatal(err)
	}
	alerts := b["alerts"].([]any)
	first, second := alerts[0].(map[string]any), alerts[1].(map[string]any)
	if b["version"] != "4" || b["status"] != "firing" || b["receiver"] != "ops" || b["groupKey"] != "g/ops" || b["truncatedAlerts"] != 0.0 ||
		first["status"] != "firing" || first["endsAt"] != "0001-01-01T00:00:00Z" || first["startsAt"] != "2023-11-14T21:56:40Z" ||
		second["status"] != "resolved" || second["endsAt"] != "2023-11-14T21:56:40Z" ||
		first["annotations"].(map[string]any)[KeyAnnotation] != "k1" {
		t.Errorf("%s", g.body)
	}
	if common := b["commonLabels"].(map[string]any); len(common) != 2 || common["severity"] != "critical" {
		t.Errorf("common labels: %v", common)
	}
	in.Webhook.MaxAlerts = 1
	if err := local().Send(t.Context(), in, message(), nil); err != nil {
		t.Fatal(err)
	}
	if text := string((*all)[1].body); !strings.Contains(text, `"truncatedAlerts":1`) {
		t.Error(text)
	}
}

// What a webhook's answer can do to us: nothing but be an error.
func TestAnswersAreBounded(t *testing.T) {
	reached := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer other.Close()
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
	}{
		"redirect": {func(w http.ResponseWriter) { w.Header().Set("Location", other.URL); w.WriteHeader(307) }, "redirects are not followed"},
		"refusal":  {func(w http.ResponseWriter) { w.WriteHeader(403); _, _ = io.WriteString(w, "no\x1b[31m\nway") }, "403 Forbidden: no [31m way"},
		"flood": {func(w http.ResponseWriter) {
			w.WriteHeader(500)
			for range 1000 {
				_, _ = w.Write(make([]byte, 64<<10))
			}
		}, "500"},
		"headers": {func(w http.ResponseWriter) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "header"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			c.answer(w)
		}))
		err := local().Send(t.Context(), web(srv.URL, nil), message(), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 {
			t.Errorf("%s: %v", name, err)
		}
		srv.Close()
	}
	if reached {
		t.Error("a redirect was followed")
	}
}

func TestReceiverThatHangs(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer srv.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // Timeout is a bound from above
	defer cancel()
	if err := local().Send(ctx, web(srv.URL, nil), message(), nil); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNeverDialled(t *testing.T) {
	s := NewSender(Policy{Cluster: func() []string { return []string{"192.0.2.7:8443", ":8001", "localhost:8002"} }}, "test", nil)
	for _, u := range []string{
		"http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/", "http://[::ffff:127.0.0.1]:1/", "http://169.254.169.254/", "http://[fe80::1]:1/",
		"http://0.0.0.0:1/", "http://[::]:1/", "http://224.0.0.1/", "http://127.1:1/", "http://192.0.2.7:8443/",
	} {
		err := s.Send(t.Context(), web(u, nil), message(), nil)
		if !errors.Is(err, ErrDenied) && (err == nil || !strings.Contains(err.Error(), "no such host")) {
			t.Errorf("%s: %v", u, err)
		}
		if err := s.Send(t.Context(), web("http://hooks.example/", func(w *route.Webhook) { w.HTTP.Proxy = u }), message(), nil); err == nil {
			t.Errorf("by proxy %s: sent", u)
		}
	}
	open := Policy{AllowLoopback: true, Cluster: s.policy.Cluster}
	for address, ok := range map[string]bool{"127.0.0.1:9": true, "127.0.0.1:8001": false, "127.0.0.1:8002": false, "[::1]:8001": false, "198.51.100.1:8001": true, "x": false} {
		if err := open.Check(t.Context(), address); ok != (err == nil) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// The gate is asked before the message is written, and what it holds back never arrives.
func TestGate(t *testing.T) {
	srv, all := sink(t, "ok")
	asked := 0
	closed := errors.New("deposed")
	err := local().Send(t.Context(), web(srv.URL, nil), message(), func(context.Context) error { asked++; return closed })
	if !errors.Is(err, ErrGate) || !errors.Is(err, closed) || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	if err := local().Send(t.Context(), web(srv.URL, nil), message(), func(context.Context) error { asked++; return nil }); err != nil || asked != 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	if len(*all) != 1 {
		t.Errorf("%d messages arrived", len(*all))
	}
}

func TestPrivateCA(t *testing.T) {
	var n atomic.Int32
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { n.Add(1) }))
	defer srv.Close()
	if err := local().Send(t.Context(), web(srv.URL, nil), message(), nil); err == nil || n.Load() != 0 {
		t.Fatalf("an unknown CA was believed: %v", err)
	}
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	if err := local().Send(t.Context(), web(srv.URL, func(w *route.Webhook) { w.HTTP.TLS = &route.TLS{CA: ca} }), message(), nil); err != nil || n.Load() != 1 {
		t.Fatal(err)
	}
}

func TestProxy(t *testing.T) {
	proxy, all := sink(t, "ok")
	in := web("http://192.0.2.9/hook", func(w *route.Webhook) { w.HTTP.Proxy = proxy.URL })
	if err := local().Send(t.Context(), in, message(), nil); err != nil || len(*all) != 1 {
		t.Fatal(err)
	}
	in = web("http://169.254.169.254/", func(w *route.Webhook) { w.HTTP.Proxy = proxy.URL })
	if err := local().Send(t.Context(), in, message(), nil); !errors.Is(err, ErrDenied) {
		t.Fatal(err)
	}
}

func TestRobots(t *testing.T) {
	srv, all := sink(t, `{"errcode":0,"errmsg":"ok"}`)
	m := message()
	for range 400 {
		m.Alerts = append(m.Alerts, m.Alerts[0])
	}
	for _, in := range []*route.Integration{
		{DingTalk: &route.DingTalk{BaseURL: srv.URL, AccessToken: "tok", Secret: "SECabc", Language: "zh", AtMobiles: []string{"138"}}},
		{WeCom: &route.WeCom{BaseURL: srv.URL + "/", Key: "key", Language: "zh"}},
		{Feishu: &route.Feishu{BaseURL: srv.URL, Token: "hook", Secret: "sec", Language: "en"}},
	} {
		if err := local().Send(t.Context(), in, m, nil); err != nil {
			t.Fatal(err)
		}
	}
	ding, wecom, feishu := (*all)[0], (*all)[1], (*all)[2]
	if ding.path != "/robot/send" || ding.query.Get("access_token") != "tok" || ding.query.Get("timestamp") != "1700000000000" ||
		ding.query.Get("sign") != "jcUpW0QmtKduN03n4JqQ0PBosVjqnM8gU7fIIvsDmCM=" {
		t.Errorf("%s %v", ding.path, ding.query)
	}
	if wecom.path != "/cgi-bin/webhook/send" || wecom.query.Get("key") != "key" || len(wecom.body) > 8000 {
		t.Errorf("%s %v %d", wecom.path, wecom.query, len(wecom.body))
	}
	var body struct {
		Timestamp, Sign string
		Content         struct{ Text string }
	}
	if err := json.Unmarshal(feishu.body, &body); err != nil || feishu.path != "/open-apis/bot/v2/hook/hook" || body.Timestamp != "1700000000" ||
		body.Sign != "ttGYnPblC3CcNExnS7y5igm57JhpqZJtHpJ+TURiUeg=" || !strings.Contains(body.Content.Text, "ref: k1") || !strings.Contains(body.Content.Text, "more") {
		t.Errorf("%s %v %.300s", feishu.path, err, feishu.body)
	}
	for _, g := range *all {
		if !strings.Contains(string(g.body), "太热了") || len(g.body) > 60_000 {
			t.Errorf("%d bytes %.200s", len(g.body), g.body)
		}
	}
	for answer, want := range map[string]string{`{"errcode":310000,"errmsg":"sign not match"}`: "310000 sign not match", `{"code":19021,"msg":"sign match fail"}`: "19021", "<html>": "not what such a robot says"} {
		bad, _ := sink(t, answer)
		err := local().Send(t.Context(), &route.Integration{DingTalk: &route.DingTalk{BaseURL: bad.URL, AccessToken: "tok", Language: "zh"}}, m, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", answer, err)
		}
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	err := local().Send(t.Context(), &route.Integration{DingTalk: &route.DingTalk{BaseURL: gone.URL, AccessToken: "tok-secret", Language: "zh"}}, m, nil)
	if err == nil || strings.Contains(err.Error(), "tok-secret") {
		t.Errorf("the error shows the token: %v", err)
	}
}
