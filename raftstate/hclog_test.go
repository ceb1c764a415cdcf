package raftstate

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

func TestRaftsFormatsAreLogged(t *testing.T) {
	var out bytes.Buffer
	l := newRaftLogger(slog.New(slog.NewTextHandler(&out, nil)))
	args := []any{"servers", hclog.Fmt("%+v", []raft.Server{{ID: "n1", Address: "n1:8002"}}), "percent-complete", hclog.Fmt("%0.2f%%", 12.345)}
	l.Info("updating configuration", args...)
	for _, want := range []string{`servers="[{Suffrage:Voter ID:n1 Address:n1:8002}]"`, "percent-complete=12.35%"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s\nhas no %s", out.String(), want)
		}
	}
	if _, ok := args[1].(hclog.Format); !ok {
		t.Error("the caller's arguments were changed")
	}
}
