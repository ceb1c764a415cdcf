package gateway

import (
	"net/http"
	"sync/atomic"
	"testing"
)

// TestNobodyIsJudgedByAnOldState: while a repair applies the log again the gateway answers no agent, good or bad.
func TestNobodyIsJudgedByAnOldState(t *testing.T) {
	var old atomic.Bool
	r := newRigWith(t, func(o *Options) {
		o.Unusable = func() error {
			if old.Load() {
				return errNoLeader
			}
			return nil
		}
	})
	strange := func() int {
		code, _, _ := r.post("/v1/agent/hello", "application/json", []byte("{}"))
		return code
	}
	if code := strange(); code != http.StatusUnauthorized {
		t.Errorf("without a certificate: %d", code)
	}
	old.Store(true)
	if code := strange(); code != http.StatusServiceUnavailable {
		t.Errorf("during a replay: %d", code)
	}
	old.Store(false)
	if code := strange(); code != http.StatusUnauthorized {
		t.Errorf("after it: %d", code)
	}
}
