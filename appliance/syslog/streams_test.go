package syslog

import (
	"slices"
	"testing"
	"time"
)

// A message of RFC 3164 may lack its host; what is taken for one may be a secret.
func TestSecretsAreNoHosts(t *testing.T) {
	s := newSite(t)
	r := open(t, s, t.TempDir(), nil)
	send(t, "udp", r.udp, "<13>"+time.Now().UTC().Format(time.Stamp)+" password=hunter2hunter2 for bob")
	if got := s.wait(1); !slices.Equal(got, []string{"password=[redacted]  for bob|facility=user"}) {
		t.Errorf("%q", got)
	}
}
