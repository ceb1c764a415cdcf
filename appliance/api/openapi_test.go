package api

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/auth"
)

func TestDescriptionMatchesTheRoutes(t *testing.T) {
	s := newStand(t, nil)
	w := s.do(call{method: "GET", path: "/v1/openapi.json"})
	if w.Code != 200 {
		t.Fatal(w.Code)
	}
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Permission  string `json:"x-permission"`
			Parameters  []struct{ Name, In string }
			RequestBody json.RawMessage
			Responses   map[string]json.RawMessage
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatal(err, doc.OpenAPI)
	}
	ids := map[string]bool{}
	for _, r := range Routes() {
		op, ok := doc.Paths[r.Path][strings.ToLower(r.Method)]
		if !ok {
			t.Errorf("%s %s is not described", r.Method, r.Path)
			continue
		}
		if ids[op.OperationID] {
			t.Errorf("%s is the name of two operations", op.OperationID)
		}
		ids[op.OperationID] = true
		if op.Permission != r.Permission.String() || (op.RequestBody != nil) != (r.Body != nil || r.Takes != "") || op.Responses["default"] == nil {
			t.Errorf("%s %s: %+v", r.Method, r.Path, op)
		}
		want := len(r.Params) + strings.Count(r.Path, "{")
		if r.Fresh {
			want += len(freshParams)
		}
		if len(op.Parameters) != want {
			t.Errorf("%s %s: %d parameters, want %d", r.Method, r.Path, len(op.Parameters), want)
		}
	}
	for _, ref := range references(w.Body.Bytes()) {
		if _, ok := doc.Components.Schemas[ref]; !ok {
			t.Errorf("schema %s is missing", ref)
		}
	}
}

func references(doc []byte) []string {
	seen := map[string]bool{}
	rest := string(doc)
	for {
		_, after, ok := strings.Cut(rest, `"#/components/schemas/`)
		if !ok {
			return slices.Sorted(maps.Keys(seen))
		}
		name, _, _ := strings.Cut(after, `"`)
		seen[name], rest = true, after
	}
}

func TestHostRowIsAsDescribed(t *testing.T) {
	s := newStand(t, nil)
	w := s.do(call{method: "GET", path: "/v1/hosts", token: s.tokens[auth.RoleViewer]})
	var answer struct {
		At    int64
		Hosts []map[string]any
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer.Hosts) != 1 || answer.At != 5 {
		t.Fatal(err, w.Body)
	}
	schema := hostRowSchema()
	described := slices.Sorted(maps.Keys(schema["properties"].(object)))
	sent := slices.Sorted(maps.Keys(answer.Hosts[0]))
	if !slices.Equal(described, sent) {
		t.Fatalf("described %v\nsent %v", described, sent)
	}
	required := slices.Clone(schema["required"].([]string))
	slices.Sort(required)
	if !slices.Equal(required, sent) {
		t.Fatalf("required %v\nsent %v", required, sent)
	}
	if answer.Hosts[0]["mem"] != nil || answer.Hosts[0]["cpu"] != 12.5 {
		t.Fatal(w.Body)
	}
}
