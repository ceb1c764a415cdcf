package appliance

import (
	"errors"
	"testing"
	"time"

	"github.com/triward/triward/appliance/pki"
)

// At most two CAs are accepted, and none is dropped while a certificate of it may be in use.
func TestSuccessorsOfTheAgentsCA(t *testing.T) {
	rec, now := agentCARecord{CAs: []sealedCA{{Cert: "0", CreatedAt: 1}}}, int64(1_000_000)
	rec, err := rec.successors(sealedCA{Cert: "1", CreatedAt: now})
	if err != nil || len(rec.CAs) != 2 || rec.CAs[0].Cert != "1" || rec.CAs[1].Cert != "0" {
		t.Fatalf("%+v %v", rec, err)
	}
	inUse := new(errAgentCAInUse)
	if _, err := rec.successors(sealedCA{Cert: "2", CreatedAt: now + time.Hour.Milliseconds()}); !errors.As(err, &inUse) {
		t.Errorf("an hour later: %v", err)
	}
	rec, err = rec.successors(sealedCA{Cert: "2", CreatedAt: now + pki.AgentLife.Milliseconds()})
	if err != nil || len(rec.CAs) != 2 || rec.CAs[0].Cert != "2" || rec.CAs[1].Cert != "1" {
		t.Errorf("when its certificates are over: %+v %v", rec, err)
	}
}
