package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

// SnapshotRequest says for whom a backup is encrypted. With neither it is not, and then has no private keys.
type SnapshotRequest struct {
	Recipients []string `json:"recipients,omitempty"` // public keys of age
	Passphrase string   `json:"passphrase,omitempty"`
}

// SnapshotStart is what is known when a backup begins.
type SnapshotStart struct {
	Cluster, Node string
	Index         uint64
	LogTime       int64 // milliseconds since 1970
	ImageBytes    int64 // before compression
	Encrypted     bool
	Keys          bool // the cluster's private keys are in it
	Complete      bool // the node was known to hold all that was committed
}

// FileName is the name under which a backup is kept when nobody says otherwise.
func (s *SnapshotStart) FileName() string {
	return fmt.Sprintf("triward-%s-%s-%d.triward", s.Cluster, time.UnixMilli(s.LogTime).UTC().Format("20060102T150405Z"), s.Index)
}

// Snapshots makes backups of the node's state.
type Snapshots interface {
	// Stream calls begin once the state is cut and writes the backup to what that returns. When it fails after that,
	// what was written is no backup.
	Stream(ctx context.Context, req SnapshotRequest, begin func(SnapshotStart) io.Writer) error
}

// Headers of a streamed backup.
const (
	SnapshotIndexHeader = "X-Triward-Snapshot-Index"
	SnapshotBytesHeader = "X-Triward-Snapshot-Image-Bytes"
	SnapshotKeysHeader  = "X-Triward-Snapshot-Keys"
	WarningHeader       = "X-Triward-Warning"
	snapshotType        = "application/vnd.triward.backup"
)

func snapshotRoutes() []Route {
	return []Route{
		{
			Method: "GET", Path: "/v1/snapshot", Permission: auth.Administer, Long: true, Type: snapshotType,
			Summary: "A backup of this node's state as a file",
			Params: []Param{{
				Name: "recipients", Kind: paramText, MaxLen: 32 << 10,
				Doc: "public keys of age for whom it is encrypted, separated by commas; not encrypted and without private keys when absent",
			}},
			serve: (*API).downloadSnapshot,
		},
		{
			Method: "POST", Path: "/v1/snapshot", Permission: auth.Administer, Long: true, Type: snapshotType,
			Summary: "A backup of this node's state as a file, encrypted for public keys or a passphrase",
			Body:    SnapshotRequest{}, MaxBody: 128 << 10, serve: (*API).makeSnapshot,
		},
	}
}

func (a *API) downloadSnapshot(q *request) error {
	// A page of somebody else's could make a browser ask for this; the answer would not be readable to it, but the
	// node would work for nothing.
	if site := q.r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return problem.New(http.StatusForbidden, "the request comes from a page of another origin")
	}
	var req SnapshotRequest
	if list := q.v.str("recipients"); list != "" {
		req.Recipients = strings.Split(list, ",")
	}
	return a.streamSnapshot(q, req)
}

func (a *API) makeSnapshot(q *request) error {
	var req SnapshotRequest
	if err := q.body(&req); err != nil {
		return err
	}
	// The deadline of the body would end the connection in the middle of the answer.
	if err := http.NewResponseController(q.w).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("lift deadline of the request: %w", err)
	}
	return a.streamSnapshot(q, req)
}

func (a *API) streamSnapshot(q *request, req SnapshotRequest) error {
	if a.cfg.Snapshots == nil {
		return problem.New(http.StatusNotFound, "this node makes no backups")
	}
	begun := false
	err := a.cfg.Snapshots.Stream(q.ctx(), req, func(s SnapshotStart) io.Writer {
		begun = true
		h := q.w.Header()
		h.Set("Content-Type", snapshotType)
		h.Set("Content-Disposition", `attachment; filename="`+s.FileName()+`"`)
		h.Set(SnapshotIndexHeader, strconv.FormatUint(s.Index, 10))
		h.Set(SnapshotBytesHeader, strconv.FormatInt(s.ImageBytes, 10))
		h.Set(SnapshotKeysHeader, strconv.FormatBool(s.Keys))
		if !s.Complete {
			h.Set(WarningHeader, "no majority answered: the backup is of what this node has, which may lack what others acknowledged")
		}
		return &patientWriter{w: q.w, rc: http.NewResponseController(q.w)}
	})
	if err != nil && begun {
		// The connection must not end as if all was well.
		a.log.Warn("backup was cut short", "request", q.id, "err", err)
		panic(http.ErrAbortHandler)
	}
	return err
}

// writePatience is how long a client of a long answer may take nothing of it.
const writePatience = time.Minute

// patientWriter lets an answer take as long as it takes, while the client goes on taking it.
type patientWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

// Write implements io.Writer.
func (p *patientWriter) Write(b []byte) (int, error) {
	if err := p.rc.SetWriteDeadline(time.Now().Add(writePatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, fmt.Errorf("set deadline of a long answer: %w", err)
	}
	return p.w.Write(b)
}
