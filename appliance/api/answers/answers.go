// Package answers bounds what answers take while they are on their way to whoever asked. A question has a place at the store for as long
// as it is worked on; the answer that it gave is in memory until the last client has taken it, and a slow one takes its time.
//
// Room bounds the bytes of large answers over all requests, and Writer ends one whose client takes nothing. The package knows nothing
// of what is in an answer.
package answers

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// small answers need no room: there may be any number of them.
	small     = 256 << 10
	roomBytes = 256 << 20
	waiting   = 4                      // answers that wait for room; others are refused at once
	patience  = 500 * time.Millisecond // for room
	// piece is what is sent under one deadline: a client takes so much in pieceTime, or is left.
	piece     = 256 << 10
	pieceTime = 30 * time.Second
	longest   = 6 * time.Minute // for all of an answer
)

// ErrFull says that too many large answers are being sent. Asking again in a moment is right.
var ErrFull = errors.New("too many large answers are being sent at once")

// Room is what large answers may take together. It is safe for concurrent use.
type Room struct {
	held  *semaphore.Weighted
	size  int64
	queue chan struct{}
}

// NewRoom makes room for so many bytes, 256 MiB when it is 0.
func NewRoom(size int64) *Room {
	if size == 0 {
		size = roomBytes
	}
	return &Room{held: semaphore.NewWeighted(size), size: size, queue: make(chan struct{}, waiting)}
}

// Hold waits a moment for room for an answer of so many bytes; release gives it back. It fails with ErrFull, and when ctx ends.
// One that is larger than all there is has it when it is alone.
func (r *Room) Hold(ctx context.Context, bytes int64) (release func(), err error) {
	if bytes <= small {
		return func() {}, nil
	}
	bytes = min(bytes, r.size)
	if !r.held.TryAcquire(bytes) {
		select {
		case r.queue <- struct{}{}:
			defer func() { <-r.queue }()
		default:
			return nil, ErrFull
		}
		wait, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if r.held.Acquire(wait, bytes) != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, ErrFull
		}
	}
	return func() { r.held.Release(bytes) }, nil
}

// Writer sends an answer piece by piece. It is for one answer and one goroutine.
type Writer struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	end time.Time
}

// NewWriter makes a Writer. The answer must be sent within six minutes, and each 256 KiB of it within 30 s.
func NewWriter(w http.ResponseWriter) *Writer {
	return &Writer{w: w, rc: http.NewResponseController(w), end: time.Now().Add(longest)}
}

// Write implements io.Writer.
func (w *Writer) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		at := time.Now().Add(pieceTime)
		if at.After(w.end) {
			at = w.end
		}
		_ = w.rc.SetWriteDeadline(at) // where there are none the client is waited for
		k, err := w.w.Write(b[:min(len(b), piece)])
		if n += k; err != nil {
			return n, err
		}
		b = b[k:]
	}
	return n, nil
}
