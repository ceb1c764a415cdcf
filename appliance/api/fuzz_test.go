package api

import (
	"errors"
	"testing"
	"time"

	"github.com/triward/triward/appliance/problem"
)

// FuzzParams reads any query string with every kind of parameter: it gives values within their bounds or a problem.
func FuzzParams(f *testing.F) {
	for _, seed := range []string{
		"limit=5&start=now-1h&step=30s&query=x", "limit=99999999999999999999", "start=now-", "step=1e9w",
		"a=1&a=2", "%", "start=2023-11-14T23:13:20Z", "step=9223372036854775807", "start=9223372036854775807", "consistency=session", ";",
	} {
		f.Add(seed)
	}
	params := with(logRange, limitParam(5, 100), Param{Name: "step", Kind: paramDuration, Min: 1000, Max: 86400_000}, freshParams[0])
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, query string) {
		v, err := readParams(query, params, now)
		if err != nil {
			if _, ok := errors.AsType[*problem.Problem](err); !ok {
				t.Fatalf("%q: %T %v", query, err, err)
			}
			return
		}
		if n := v.int("limit"); n < 1 || n > 100 {
			t.Fatalf("%q: limit %d", query, n)
		}
		if d := v.int("step"); v.has("step") && (d < int64(time.Second) || d > int64(24*time.Hour)) {
			t.Fatalf("%q: step %d", query, d)
		}
		if len(v.str("query")) > 16<<10 || v.int("start") < 0 && v.has("start") {
			t.Fatalf("%q: %+v", query, v)
		}
	})
}
