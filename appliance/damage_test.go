package appliance_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/triward/triward/appliance/internal/testcluster"
)

// The node's own events go with the lines, when it had told some.
var (
	damaged = regexp.MustCompile(`damaged: (logs|events) of`)
	counted = regexp.MustCompile(`(?m)^triward_logstore_damage_total [12]$`)
)

// A node whose log store opens with lines missing says so: it is not ready, its answers are partial, and it counts.
func TestLostLinesAreNoticed(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	a := c.NewAgent(t, "host-a")
	testcluster.Until(t, "acknowledged", func() error {
		_, err := a.Send(n, a.Lines(time.Now().UnixNano(), "the walrus said 1", "the walrus said 2"))
		return err
	})
	n.Stop(t)

	dirs, err := filepath.Glob(filepath.Join(n.Config.DataDir, "logs", "*", "pebble"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("%v %v", dirs, err)
	}
	db, err := pebble.Open(dirs[0], &pebble.Options{FormatMajorVersion: pebble.FormatValueSeparation})
	if err != nil {
		t.Fatal(err)
	}
	for _, lines := range []string{"h", "i"} { // headers of blocks, inbox
		if err := db.DeleteRange([]byte(lines), []byte{lines[0] + 1}, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	n.Start(t)
	testcluster.Until(t, "the loss is noticed", func() error {
		err := c.Get(n, "/-/ready", nil)
		if err == nil || !strings.Contains(err.Error(), `"part":"logs","ok":false`) || !damaged.MatchString(err.Error()) {
			return fmt.Errorf("ready answers %w", err)
		}
		return nil
	})
	if err := c.Get(n, "/-/healthy", nil); err != nil {
		t.Errorf("a restart mends nothing: %v", err)
	}
	var page struct {
		Stats struct {
			Partial bool `json:"partial"`
		} `json:"stats"`
	}
	if err := c.Get(n, "/v1/logs/query?query=walrus", &page); err != nil || !page.Stats.Partial {
		t.Errorf("%v: %+v", err, page)
	}
	for _, path := range []string{"/v1/logs/hits?step=60s", "/v1/logs/facets?field=host"} {
		var part struct {
			Partial bool `json:"partial"`
		}
		if err := c.Get(n, path, &part); err != nil || !part.Partial {
			t.Errorf("%s: %v: %+v", path, err, part)
		}
	}
	req, err := http.NewRequest(http.MethodGet, n.URL()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !counted.Match(text) {
		t.Errorf("the metric is missing: %v", err)
	}
}
