package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/problem"
)

// badJSON is the answer to JSON that is not what was expected.
func badJSON(d *json.Decoder, err error) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return problem.New(http.StatusBadRequest, fmt.Sprintf("body is not the JSON expected: %v (at byte %d)", err, d.InputOffset()))
}

func wantDelim(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err == nil && t != want {
		err = fmt.Errorf("%q expected", rune(want))
	}
	return err
}

func endOfJSON(d *json.Decoder) error {
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// eachElement calls fn before every element of an array.
func eachElement(d *json.Decoder, fn func() error) error {
	if err := wantDelim(d, '['); err != nil {
		return err
	}
	for d.More() {
		if err := fn(); err != nil {
			return err
		}
	}
	return wantDelim(d, ']')
}

// eachMember calls fn before the value of every member of an object.
func eachMember(d *json.Decoder, fn func(name string) error) error {
	if err := wantDelim(d, '{'); err != nil {
		return err
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if err := fn(name); err != nil {
			return err
		}
	}
	return wantDelim(d, '}')
}

// json reads {"streams": [{"stream": {name: value}, "values": [["<ns>", "<line>", {name: value}], ...]}, ...]}.
func (p *lokiPush) json(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	nth := 0
	err := eachMember(d, func(name string) error {
		if name != "streams" {
			return skip(d)
		}
		return eachElement(d, func() error {
			if err := p.jsonStream(d, nth); err != nil {
				if _, ok := errors.AsType[*problem.Problem](err); ok {
					return err
				}
				return fmt.Errorf("streams[%d]: %w", nth, err)
			}
			nth++
			return nil
		})
	})
	if err == nil {
		err = endOfJSON(d)
	}
	if err != nil {
		return badJSON(d, err)
	}
	return nil
}

func skip(d *json.Decoder) error {
	var v json.RawMessage
	return d.Decode(&v)
}

// maxLabelsJSON is how long the labels of a stream may be written.
const maxLabelsJSON = 256 << 10

func (p *lokiPush) jsonStream(d *json.Decoder, nth int) error {
	var labels map[string]string
	var entries []lokiEntry
	err := eachMember(d, func(name string) error {
		switch name {
		case "stream":
			return decodeShort(d, maxLabelsJSON, &labels)
		case "values":
			return eachElement(d, func() error {
				if p.seen++; p.seen > maxLines {
					return errTooManyLines
				}
				var e lokiEntry
				if err := d.Decode(&e); err != nil {
					return fmt.Errorf("values[%d]: %w", len(entries), err)
				}
				entries = append(entries, e)
				return nil
			})
		}
		return skip(d)
	})
	if err != nil {
		return err
	}
	s, refused := p.newLokiStream(wire.LabelsFromMap(labels))
	if refused != nil {
		p.refuse(len(entries), fmt.Sprintf("streams[%d]", nth), refused.Error())
		return nil
	}
	for i := range entries {
		p.seen-- // take counts it again
		if err := p.take(s, entries[i].line); err != nil {
			return err
		}
	}
	return nil
}

// lokiEntry is one of "values".
type lokiEntry struct{ line wire.LogLine }

// UnmarshalJSON reads ["<ns>", "<line>"] or the same with an object of fields.
func (e *lokiEntry) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	i := 0
	err := eachElement(d, func() error {
		i++
		switch i {
		case 1, 2:
			t, err := d.Token()
			text, ok := t.(string)
			switch {
			case err != nil:
				return err
			case !ok:
				return errors.New("time and line must be texts")
			case i == 2:
				e.line.Text = []byte(text)
			default:
				ns, err := strconv.ParseInt(text, 10, 64)
				if err != nil || ns < 0 {
					return fmt.Errorf("%.30q is no time in nanoseconds since 1970", text)
				}
				e.line.T = ns
			}
			return nil
		case 3:
			return e.fields(d)
		}
		return errors.New("more than time, line and fields")
	})
	if err == nil && i < 2 {
		err = errors.New("time and line expected")
	}
	return err
}

func (e *lokiEntry) fields(d *json.Decoder) error {
	return eachMember(d, func(name string) error {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		if len(e.line.Fields) < 2*wire.MaxFields {
			e.line.Fields = append(e.line.Fields, wire.Label{Name: name, Value: textOf(raw)})
		}
		return nil
	})
}

// textOf is a JSON value as the text of a label or field: a text itself, all else as it was written; "" for null.
func textOf(raw json.RawMessage) string {
	var text string
	switch {
	case string(raw) == "null":
		return ""
	case len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil:
		return text
	}
	return string(raw)
}

// labelsOf are the labels of tags, sorted, without empty ones.
func labelsOf(tags map[string]json.RawMessage) wire.Labels {
	m := make(map[string]string, len(tags))
	for name, raw := range tags {
		m[name] = textOf(raw)
	}
	return wire.LabelsFromMap(m)
}

// decodeShort decodes a value that is written in at most limit bytes, so that no small bytes unfold to much.
func decodeShort(d *json.Decoder, limit int, v any) error {
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return err
	}
	if len(raw) > limit {
		return fmt.Errorf("%d bytes where at most %d are allowed", len(raw), limit)
	}
	return json.Unmarshal(raw, v)
}
