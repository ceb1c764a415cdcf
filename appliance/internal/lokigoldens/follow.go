package lokigoldens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/gorilla/websocket"
)

// Tail is the path of questions that are answered over a websocket, and by lines that come later.
const Tail = "tail"

// end is the text of the line by which a tail is known to have brought all.
const end = "end"

// Members of the data of a tail: lists of lines, each as [labels, time, text], in the order in which they came.
const (
	Before = "before" // that were there
	Then   = "then"   // that were pushed while it was open
)

// Follow opens a tail at an address such as ws://127.0.0.1:3100, reads the lines that are there, pushes those of q.Then and reads
// until the last of them, whose text is "end", has come. there is how many lines it waits for before it pushes. A question that
// is to be refused has none to push.
func (q *Question) Follow(ctx context.Context, address string, header http.Header, there int, push func(*Push) error) (*Answer, error) {
	target, err := q.URL()
	if err != nil {
		return nil, err
	}
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, address+target, header)
	if resp != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		if resp == nil || resp.StatusCode < 400 || resp.StatusCode >= 500 {
			return nil, fmt.Errorf("%s: %w", q.Name, err)
		}
		said, err := io.ReadAll(resp.Body) // the library keeps the beginning
		return &Answer{Ask: *q, Refused: string(said)}, err
	}
	defer ws.Close()
	if by, ok := ctx.Deadline(); ok {
		if err := ws.SetReadDeadline(by); err != nil {
			return nil, err
		}
	}
	before, then := []any{}, []any{}
	for len(before) < there && err == nil {
		before, _, err = readMessage(ws, before)
	}
	for i := range q.Then {
		if err == nil {
			err = push(&q.Then[i])
		}
	}
	for done := false; !done && err == nil; { // one that is refused says so now at the latest
		then, done, err = readMessage(ws, then)
	}
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		return &Answer{Ask: *q, Refused: closed.Text}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w, behind %v and %v", q.Name, err, before, then)
	}
	return &Answer{Ask: *q, Data: map[string]any{Before: before, Then: then}}, nil
}

// readMessage appends the lines of a message, and reports whether the end is one of them.
func readMessage(ws *websocket.Conn, lines []any) (_ []any, done bool, err error) {
	_, body, err := ws.ReadMessage()
	if err != nil {
		return lines, false, err
	}
	var m struct {
		Streams []struct {
			Stream map[string]any
			Values [][2]string
		}
		Dropped json.RawMessage `json:"dropped_entries"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return lines, false, fmt.Errorf("%w: %s", err, body)
	}
	if d := string(m.Dropped); d != "" && d != "null" && d != "[]" {
		return lines, false, fmt.Errorf("lines were dropped: %s", d)
	}
	for _, s := range m.Streams {
		for _, v := range s.Values {
			lines = append(lines, []any{s.Stream, v[0], v[1]})
			done = done || v[1] == end
		}
	}
	return lines, done, nil
}
