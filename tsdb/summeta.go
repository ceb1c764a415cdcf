package tsdb

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"
)

// summedMeta is what of a block's meta.json is summed: a copy of the library's structure as it was when the first sums were
// written, in its order. It must never change, whatever fields the library adds: every block would have another sum, on
// all nodes at once. Fields that are not in it are not summed.
type summedMeta struct {
	ULID       ulid.ULID        `json:"ulid"`
	MinTime    int64            `json:"minTime"`
	MaxTime    int64            `json:"maxTime"`
	Stats      summedStats      `json:"stats"`
	Compaction summedCompaction `json:"compaction"`
	Version    int              `json:"version"`
}

type summedStats struct {
	NumSamples          uint64 `json:"numSamples,omitempty"`
	NumFloatSamples     uint64 `json:"numFloatSamples,omitempty"`
	NumHistogramSamples uint64 `json:"numHistogramSamples,omitempty"`
	NumSeries           uint64 `json:"numSeries,omitempty"`
	NumChunks           uint64 `json:"numChunks,omitempty"`
	NumTombstones       uint64 `json:"numTombstones,omitempty"`
}

type summedBlock struct {
	ULID    ulid.ULID `json:"ulid"`
	MinTime int64     `json:"minTime"`
	MaxTime int64     `json:"maxTime"`
}

// summedCompaction is without deletable and failed, which the library sets later.
type summedCompaction struct {
	Level   int           `json:"level"`
	Sources []ulid.ULID   `json:"sources,omitempty"`
	Parents []summedBlock `json:"parents,omitempty"`
	Hints   []string      `json:"hints,omitempty"`
}

// metaSum returns the sum of the content of a meta.json.
func metaSum(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("sum: %w", err)
	}
	var meta summedMeta
	if err := json.Unmarshal(text, &meta); err != nil {
		return "", damaged(path, err)
	}
	if text, err = json.Marshal(&meta); err != nil {
		return "", fmt.Errorf("sum %s: %w", path, err)
	}
	return hexSum(xxh3.Hash128(text)), nil
}
