package ui

import (
	"encoding/json"
	"math"
	"strconv"
)

// Subprotocol of the live socket.
const Subprotocol = "triward.v1.json"

// request is what a client sends.
type request struct {
	Op     string          `json:"op"`
	ID     string          `json:"id"`
	Kind   string          `json:"kind"`
	Params json.RawMessage `json:"params"`
	Cursor string          `json:"cursor"`
	Seq    uint64          `json:"seq"`
}

// Codes of the answers err and notice.
const (
	codeBadMessage  = "bad_message"
	codeBadParams   = "bad_params"
	codeBadQuery    = "bad_query"
	codeForbidden   = "forbidden"
	codeLimit       = "limit"
	codeUnknownKind = "unknown_kind"
	codeUnavailable = "unavailable"
)

// Messages of the server. Those of single subscriptions are written by hand where they are frequent.
type (
	msgWelcome struct {
		Op         string `json:"op"`
		Epoch      string `json:"epoch"`
		Node       string `json:"node"`
		ServerTime int64  `json:"serverTime"`
	}
	msgSnap struct {
		Op     string          `json:"op"`
		ID     string          `json:"id"`
		Seq    uint64          `json:"seq"`
		T0     int64           `json:"t0"`
		Step   int64           `json:"step"`
		Series json.RawMessage `json:"series"`
		V      json.RawMessage `json:"v"`
		Cursor string          `json:"cursor"`
		Lacks  Lack            `json:"lacks,omitempty"` // of a tail
	}
	msgDelta struct {
		Op      string          `json:"op"`
		ID      string          `json:"id"`
		Seq     uint64          `json:"seq"`
		T       int64           `json:"t"`
		Series  json.RawMessage `json:"series,omitempty"`
		V       json.RawMessage `json:"v"`
		Gone    []string        `json:"gone,omitempty"`
		Sampled int             `json:"sampled,omitempty"`
		Cursor  string          `json:"cursor"`
	}
	msgGap struct {
		Op      string `json:"op"`
		ID      string `json:"id"`
		From    string `json:"from"`
		To      string `json:"to"`
		Dropped int    `json:"dropped"` // -1 when nobody knows
	}
	msgErr struct {
		Op      string `json:"op"`
		ID      string `json:"id,omitempty"`
		Code    string `json:"code"`
		Pos     *int   `json:"pos,omitempty"`
		Message string `json:"message"`
	}
	msgEnd struct {
		Op string `json:"op"`
		ID string `json:"id"`
	}
	msgNotice struct {
		Op      string `json:"op"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	msgTick struct {
		Op string `json:"op"`
		T  int64  `json:"t"`
	}
)

// appendNumber writes a number, or null for what JSON has no number for.
func appendNumber(dst []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(dst, "null"...)
	}
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, 64)
}

// appendRows writes encoded objects as an array.
func appendRows[T any](dst []byte, rows []T, row func(T) json.RawMessage) []byte {
	dst = append(dst, '[')
	for i, r := range rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, row(r)...)
	}
	return append(dst, ']')
}
