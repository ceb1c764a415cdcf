package lines

import (
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
)

// The level of a JSON line is what its own member says, wherever that stands and whatever else the line says before it.
func TestSeverityOfObjects(t *testing.T) {
	long := strings.Repeat("x", 4000)
	for line, want := range map[string]wire.Severity{
		`{"level":"error","msg":"boom"}`:                                                 wire.SeverityError,
		` { "msg" : "GET / INFO" , "LEVEL" : "Error" }`:                                  wire.SeverityError,
		`{"msg":"` + long + `","severity":"warning"}`:                                    wire.SeverityWarning,
		`{"msg":"a \"level\":\"info\", \\","a":[{"level":"debug"}],"log.level":"fatal"}`: wire.SeverityCritical,
		`{"req":{"level":"debug","n":[1]},"level":"info"}`:                               wire.SeverityInfo,
		`{"msg":"level","lvl":"warn"}`:                                                   wire.SeverityWarning,
		`{"level":50,"levelname":"ERROR"}`:                                               wire.SeverityError,
		`{"level":"none of these","msg":"ERROR x"}`:                                      wire.SeverityError, // what a text says, as before
		`{"a":1} level=error`:                                                            wire.SeverityError,
		`{"msg":"fine"}`:                                                                 wire.SeverityUnknown, `{"level":"err`: wire.SeverityError, `{"level"`: wire.SeverityUnknown, `{`: wire.SeverityUnknown,
		`{"level":}`: wire.SeverityUnknown, `{"msg":"` + strings.Repeat("x", maxObject) + `","level":"error"}`: wire.SeverityUnknown,
	} {
		if got := Severity([]byte(line)); got != want {
			t.Errorf("%.120s: %s, want %s", line, got, want)
		}
	}
}
