package lokiapi

import (
	"encoding/json"
	"io"
	"net/http"
	"runtime"

	"github.com/triward/triward/appliance/api/answers"
	"github.com/triward/triward/logstore"
)

// pieceBytes is how much of an answer is made before it is sent.
const pieceBytes = 64 << 10

// writer makes the JSON of an answer piece by piece. When the client is gone it writes nothing more.
type writer struct {
	w    io.Writer // nil: all of it is kept
	buf  []byte
	gone bool
}

// begin starts a successful answer.
func (q *request) begin() *writer {
	q.leave() // a client that is slow keeps nobody from the store
	q.w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	q.w.WriteHeader(http.StatusOK)
	return &writer{w: answers.NewWriter(q.w), buf: make([]byte, 0, 8<<10)}
}

func (w *writer) text(s string) { w.buf = append(w.buf, s...) }

// json appends a value that always encodes: maps, texts and numbers that are finite.
func (w *writer) json(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		b = []byte("null")
	}
	w.buf = append(w.buf, b...)
}

func (w *writer) warnings(list []string) {
	if len(list) > 0 {
		w.text(`,"warnings":`)
		w.json(list)
	}
}

// spill sends what is there once it is a piece.
func (w *writer) spill() {
	if w.w != nil && len(w.buf) >= pieceBytes {
		w.flush()
	}
}

func (w *writer) flush() {
	if !w.gone {
		_, err := w.w.Write(w.buf)
		w.gone = err != nil
	}
	w.buf = w.buf[:0]
}

// answer writes a value as JSON.
func (q *request) answer(code int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	q.leave()
	release, err := q.room.Hold(q.ctx(), int64(len(b)))
	if err != nil {
		return err
	}
	defer release()
	q.w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	q.w.WriteHeader(code)
	_, _ = answers.NewWriter(q.w).Write(append(b, '\n')) // the client is gone when this fails
	return nil
}

// answered is the form of most answers.
type answered struct {
	Status   string   `json:"status"`
	Data     any      `json:"data"`
	Warnings []string `json:"warnings,omitempty"`
}

func (q *request) data(v any, warnings ...string) error {
	return q.answer(http.StatusOK, answered{"success", v, warnings})
}

// partial says what was left out of an answer.
func partial(s *logstore.Stats) []string {
	if !s.Partial {
		return nil
	}
	return []string{"the answer is partial: damaged parts of this node's log store were left out, and no other node that was asked has them all"}
}

// buildInfo answers status/buildinfo.
func (a *API) buildInfo(q *request) error {
	return q.answer(http.StatusOK, struct {
		Version   string `json:"version"`
		Revision  string `json:"revision"`
		Branch    string `json:"branch"`
		BuildUser string `json:"buildUser"`
		BuildDate string `json:"buildDate"`
		GoVersion string `json:"goVersion"`
	}{Version, a.opts.Version, "triward", "", "", runtime.Version()})
}
