package alerting

import (
	"encoding/json"
	"fmt"

	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"
)

// Origins of rule files.
const (
	OriginShipped  = "shipped"  // came with the program and was not changed
	OriginOperator = "operator" // an operator wrote it, or changed a shipped one
)

// FileRecord is a file of rules as it is stored.
type FileRecord struct {
	Name    string `json:"name"`
	Body    string `json:"body"`
	Version uint64 `json:"version"` // counts changes
	Origin  string `json:"origin"`
	// Shipped is the version of the shipped set that the file is of, 0 for none.
	Shipped   int      `json:"shipped,omitempty"`
	Disabled  bool     `json:"disabled,omitempty"`
	Off       []string `json:"off,omitempty"`     // names of rules that are not evaluated
	Removed   bool     `json:"removed,omitempty"` // an operator removed a shipped file, so that it does not come back
	UpdatedBy string   `json:"updated_by"`
	UpdatedAt int64    `json:"updated_at"`
}

// RoutesRecord is the document of routes and receivers as it is stored.
type RoutesRecord struct {
	Body      string            `json:"body"` // without secrets
	Sealed    map[string]string `json:"sealed,omitempty"`
	Version   uint64            `json:"version"`
	UpdatedBy string            `json:"updated_by"`
	UpdatedAt int64             `json:"updated_at"`
}

// Health is why a rule is not evaluated as it should be. A rule that is well has no record.
type Health struct {
	Rule  string `json:"rule"`
	Error string `json:"error"`
	Since int64  `json:"since"`
}

// lease is who may change the state of alerts.
type lease struct {
	Node    string `json:"node"`
	Term    uint64 `json:"term"`
	TakenAt int64  `json:"taken_at"`
}

// seen is until when alerts were evaluated, and since when again without an outage.
type seen struct {
	T       int64 `json:"t"`
	Resumed int64 `json:"resumed"`
}

// cursor is how far events were read.
type cursor struct {
	Index uint64 `json:"index"`
}

// Keys of BucketLease and BucketRoutes.
const (
	keyLeader = "leader"
	keySeen   = "seen"
	keyEvents = "events"
	keyRoutes = "routes"
)

// encode marshals a record of this package; these are structs of plain fields and cannot fail.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("alerting: encode %T: %v", v, err))
	}
	return b
}

// held is a decoded record and the log index that wrote it.
type held[T any] struct {
	rec T
	mod uint64
}

type heldFile struct {
	rec    FileRecord
	mod    uint64
	parsed *rules.File // nil when this program cannot read it
	err    error
}

type heldRoutes struct {
	rec RoutesRecord
	mod uint64
	cfg *route.Config // secrets are route.SecretShown in it; nil when there is none
	err error
}

type heldSilence struct {
	rec      route.Silence
	mod      uint64
	matchers route.Matchers
}

type heldAlert = held[*state.Alert]
