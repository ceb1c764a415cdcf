package testcluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance"
)

// planted are secrets in the forms that lines have them in, each with a part that must be found nowhere.
var planted = []struct{ text, secret string }{
	{"paid with 4111-1111-1111-1111 today", "4111-1111-1111-1111"},
	{"paid with 5500005555555559 today", "5500005555555559"},
	{"login password=Xq7-planted-one ok", "Xq7-planted-one"},
	{`{"user":"a","password":"Xq7-planted-two"}`, "Xq7-planted-two"},
	{"Authorization: Bearer Xq7plantedthree00", "Xq7plantedthree00"},
	{"connect postgres://app:Xq7-planted-four@db/x", "Xq7-planted-four"},
	{"api_key=Xq7-planted-five", "Xq7-planted-five"},
	{"seen ghp_Xq7plantedsix0123456789abcdefghijkl in a commit", "ghp_Xq7plantedsix0123456789abcdefghijkl"},
	{"-----BEGIN PRIVATE KEY-----\nXq7plantedseven\n-----END PRIVATE KEY-----", "Xq7plantedseven"},
}

// What is secret in lines, fields and events is in no byte of any node's disk, whichever way it came in; what stands
// beside it is.
func TestPlantedSecretsAreInNoFile(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 3, func(cfg *appliance.Config) {
		cfg.Listen.Syslog.UDP, cfg.Listen.Syslog.TCP, cfg.Listen.Syslog.TLS = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	})
	var token struct {
		Token string `json:"token"`
	}
	must(t, c.Post(c.Nodes[0], "/v1/tokens/api", map[string]string{"name": "s", "role": "ingest"}, &token))
	s := &sender{c: c, token: token.Token}
	a := c.NewAgent(t, "planted-host")
	syslog := c.Nodes[1].App.Config().Listen.Syslog
	now := time.Now()
	plain, err := net.Dial("tcp", syslog.TCP)
	must(t, err)
	defer plain.Close()
	datagrams, err := net.Dial("udp", syslog.UDP)
	must(t, err)
	defer datagrams.Close()
	want := 0
	for i, p := range planted {
		// A word in each line that is found again proves that the search for the secrets looks at what there is.
		text := func(way string) string { want++; return p.text + " walrus" + way }
		b := a.Lines(now.UnixNano()+int64(i), text("agent"))
		res, err := a.Send(c.Nodes[i%3], b)
		must(t, err)
		if res[0].Status != "ok" {
			t.Fatalf("%+v", res)
		}
		// The same batch again, by another node: its hash is of what the agent has, so it is no clone.
		if res, err = a.Send(c.Nodes[(i+1)%3], b); err != nil || res[0].Status != "duplicate" {
			t.Errorf("a repeat is answered %+v, %v", res, err)
		}
		quoted, err := json.Marshal(text("loki"))
		must(t, err)
		field, err := json.Marshal(p.text)
		must(t, err)
		must(t, s.push("/loki/api/v1/push", "application/json", "", fmt.Appendf(nil,
			`{"streams":[{"stream":{"job":"j"},"values":[["%d",%s,{"note":%s}]]}]}`, now.UnixNano()+int64(i), quoted, field)))
		for _, kind := range []string{"logs", "events"} {
			value, err := json.Marshal(text(kind))
			must(t, err)
			body := fmt.Appendf(nil, `[{"agent_id":%%q,"timestamp":%d,"data":{"name":"n","value":%s,"tags":{"note":%s,"db_password":"Xq7-planted-two"}}}]`, now.UnixMicro()+int64(i), value, field)
			must(t, s.push("/monitor/"+kind, "application/json", "", fmt.Appendf(nil, string(body), "door")))
			must(t, a.post(c.Nodes[i%3], "/monitor/"+kind, "application/json", fmt.Appendf(nil, string(body), a.ID), nil))
			want++
		}
		if strings.Contains(p.text, "\n") {
			_, err = fmt.Fprintf(datagrams, "<13>app: %s", text("udp"))
			must(t, err)
			continue
		}
		_, err = fmt.Fprintf(plain, "<13>app: %s\n", text("tcp"))
		must(t, err)
		_, err = fmt.Fprintf(datagrams, "<13>1 - h app - - [x@1 note=\"%s\"] %s", strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(p.text), text("udp"))
		must(t, err)
	}
	// What of the agent's certificate: only its own name is taken.
	if err := a.post(c.Nodes[0], "/monitor/logs", "application/json", fmt.Appendf(nil, `[{"agent_id":"another","timestamp":%d,"data":{"value":"x"}}]`, now.Unix()), nil); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("an agent spoke for another: %v", err)
	}
	must(t, a.post(c.Nodes[0], "/monitor/metrics", "application/json", fmt.Appendf(nil, `[{"timestamp":%d,"data":{"name":"door_open","value":1}}]`, now.Unix()), nil))
	for _, n := range c.Nodes {
		Until(t, "all lines", func() error {
			var logs struct {
				Rows []struct {
					Text string `json:"text"`
				} `json:"rows"`
			}
			q := url.Values{"query": {"walrus*"}, "start": {"now-2h"}, "limit": {"5000"}, "consistency": {"linearizable"}}
			if err := c.Get(n, "/v1/logs/query?"+q.Encode(), &logs); err != nil {
				return err
			}
			for _, r := range logs.Rows {
				for _, p := range planted {
					if strings.Contains(r.Text, p.secret) {
						t.Errorf("%s answers %q", n.Config.NodeID, r.Text)
					}
				}
			}
			got := len(logs.Rows)
			if got != want {
				return fmt.Errorf("%s has %d lines of %d", n.Config.NodeID, got, want)
			}
			return nil
		})
		var metrics struct {
			Data struct {
				Result []struct {
					Metric map[string]string `json:"metric"`
				} `json:"result"`
			} `json:"data"`
		}
		q := url.Values{"query": {"last_over_time(door_open[1h])"}, "consistency": {"linearizable"}}
		must(t, c.Get(n, "/api/v1/query?"+q.Encode(), &metrics))
		if r := metrics.Data.Result; len(r) != 1 || r[0].Metric["agent"] != a.ID || r[0].Metric["host"] != "planted-host" || r[0].Metric["agent_id"] != a.ID {
			t.Errorf("%s holds %v", n.Config.NodeID, r)
		}
	}
	masked := maskedBy(t, c)
	for kind, n := range masked {
		if n == 0 {
			t.Errorf("no %s was counted: %v", kind, masked)
		}
	}
	for _, n := range c.Nodes {
		n.Stop(t)
		searched := search(t, n.Config.DataDir, func(path string, body []byte) (found bool) {
			for _, p := range planted {
				if bytes.Contains(body, []byte(p.secret)) {
					t.Errorf("%q is in %s", p.secret, path)
				}
			}
			return bytes.Contains(body, []byte("walrus"))
		})
		if searched == 0 {
			t.Errorf("%s: the words beside the secrets are in no file: the search does not see what is stored", n.Config.NodeID)
		}
	}
}

// maskedBy adds up what the nodes say they have masked.
func maskedBy(t *testing.T, c *Cluster) map[string]float64 {
	t.Helper()
	sum := map[string]float64{"card": 0, "password": 0, "token": 0}
	for _, n := range c.Nodes {
		req, err := http.NewRequest(http.MethodGet, n.URL()+"/metrics", nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+c.Token)
		resp, err := c.HTTP.Do(req)
		must(t, err)
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
		must(t, err)
		must(t, resp.Body.Close())
		for line := range strings.Lines(string(body)) {
			var kind string
			var v float64
			if rest, ok := strings.CutPrefix(line, `triward_redacted_total{kind="`); ok {
				kind, rest, _ = strings.Cut(rest, `"} `)
				if _, err := fmt.Sscan(rest, &v); err == nil && kind != "pattern" {
					sum[kind] += v
				}
			}
		}
	}
	return sum
}

// search calls look with every file below dir, and with what is compressed in it.
func search(t *testing.T, dir string, look func(path string, body []byte) bool) (found int) {
	t.Helper()
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(4*wire.MaxBatchRaw), zstd.WithDecoderConcurrency(1))
	must(t, err)
	defer dec.Close()
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		hit := look(path, body)
		for at := bytes.Index(body, magic); at >= 0; {
			frame := bytes.NewReader(body[at:])
			if dec.Reset(frame) == nil {
				plain, _ := io.ReadAll(io.LimitReader(dec, wire.MaxBatchRaw)) // what follows the frame is none
				hit = look(path+" (compressed)", plain) || hit
			}
			next := bytes.Index(body[at+1:], magic)
			if next < 0 {
				break
			}
			at += 1 + next
		}
		if hit {
			found++
		}
		return nil
	}))
	return found
}
