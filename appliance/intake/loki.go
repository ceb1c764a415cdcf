package intake

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/command"
)

// LokiPush takes Loki's push: a snappy block with a logproto.PushRequest, or JSON, gzip or not.
func (in *Intake) LokiPush(w http.ResponseWriter, r *http.Request) error {
	media, _, encoding, err := kindOf(r, "", "snappy", "gzip")
	if err != nil {
		return err
	}
	isJSON := media == "application/json"
	switch {
	case isJSON && encoding != "snappy":
	case !isJSON && (media == contentProto || media == "") && encoding != "gzip":
		encoding = "snappy" // Loki's clients do not say so
	default:
		return problem.New(http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Type %.100q with Content-Encoding %q", media, encoding)).
			WithHint("send application/x-protobuf in a snappy block, or application/json with gzip or without")
	}
	h := hold{in: in}
	defer h.release()
	body, err := h.read(r, encoding)
	if err != nil {
		return err
	}
	p := &lokiPush{linePush: linePush{in: in}}
	if isJSON {
		err = p.json(body)
	} else {
		err = badProtoOrNil(p.proto(body))
	}
	if err != nil {
		return err
	}
	if err := p.push(r.Context()); err != nil {
		return err
	}
	if err := p.done(in, "loki", "lines"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func badProtoOrNil(err error) error {
	if err == nil {
		return nil
	}
	return badProto(err)
}

// lokiPush reads a push request. Repeated lines are dropped: clients stamp nanoseconds and repeat what they do not
// know the outcome of.
type lokiPush struct {
	linePush
	seen int // lines
}

var errTooManyLines = problem.New(http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d lines in one request", maxLines)).
	WithHint("send smaller batches")

// proto reads a logproto.PushRequest. Of its parts it knows:
//
//	PushRequest:   1 StreamAdapter*
//	StreamAdapter: 1 string labels, 2 EntryAdapter*
//	EntryAdapter:  1 Timestamp (1 seconds, 2 nanos), 2 string line, 3 LabelPairAdapter* (1 name, 2 value)
func (p *lokiPush) proto(body []byte) error {
	nth := 0
	return eachField(body, func(field protowire.Number, kind protowire.Type, data []byte, _ uint64) error {
		if field != 1 || kind != protowire.BytesType {
			return nil
		}
		if err := p.protoStream(nth, data); err != nil {
			return fmt.Errorf("stream %d: %w", nth, err)
		}
		nth++
		return nil
	})
}

func (p *lokiPush) protoStream(nth int, b []byte) error {
	// The labels may come behind the entries.
	text := ""
	err := eachField(b, func(field protowire.Number, kind protowire.Type, data []byte, _ uint64) error {
		if field == 1 && kind == protowire.BytesType {
			text = string(data)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var s *stream
	ls, refused := parseLabels(text)
	if refused == nil {
		s, refused = p.newLokiStream(ls)
	}
	lines := 0
	err = eachField(b, func(field protowire.Number, kind protowire.Type, data []byte, _ uint64) error {
		if field != 2 || kind != protowire.BytesType {
			return nil
		}
		l, err := protoEntry(data)
		if err != nil {
			return fmt.Errorf("entry %d: %w", lines, err)
		}
		lines++
		return p.take(s, l)
	})
	if err == nil && refused != nil {
		p.refuse(lines, fmt.Sprintf("stream %d %s", nth, clip(text, 80)), refused.Error())
	}
	return err
}

// take adds a line; one of a refused stream is only counted.
func (p *lokiPush) take(s *stream, l wire.LogLine) error {
	if p.seen++; p.seen > maxLines {
		return errTooManyLines
	}
	if s != nil {
		p.add(s, l, command.RepeatsDropped)
	}
	return nil
}

func (p *lokiPush) newLokiStream(ls wire.Labels) (*stream, error) {
	if len(ls) == 0 {
		return nil, errors.New("no labels: a stream needs at least one")
	}
	return p.newStream(wire.StreamLog, ls, "") // with the labels that it came with, by which its sender asks for it again
}

func protoEntry(b []byte) (l wire.LogLine, err error) {
	err = eachField(b, func(field protowire.Number, kind protowire.Type, data []byte, _ uint64) error {
		if kind != protowire.BytesType {
			return nil
		}
		switch field {
		case 1:
			t, err := protoTime(data)
			l.T = t
			return err
		case 2:
			l.Text = data
		case 3:
			if len(l.Fields) < 2*wire.MaxFields {
				f, err := protoPair(data)
				l.Fields = append(l.Fields, f)
				return err
			}
		}
		return nil
	})
	return l, err
}

// maxSeconds since 1970 fit into nanoseconds.
const maxSeconds = int64(math.MaxInt64)/1e9 - 1

func protoTime(b []byte) (int64, error) {
	var sec, nano int64
	err := eachField(b, func(field protowire.Number, kind protowire.Type, _ []byte, n uint64) error {
		switch {
		case kind != protowire.VarintType:
		case field == 1:
			sec = int64(n)
		case field == 2:
			nano = int64(n)
		}
		return nil
	})
	if err == nil && (nano < 0 || nano >= 1e9 || sec < 0 || sec > maxSeconds) {
		err = fmt.Errorf("time stamp of %d s and %d ns is no time", sec, nano)
	}
	return sec*1e9 + nano, err
}

func protoPair(b []byte) (f wire.Label, err error) {
	err = eachField(b, func(field protowire.Number, kind protowire.Type, data []byte, _ uint64) error {
		switch {
		case kind != protowire.BytesType:
		case field == 1:
			f.Name = string(data)
		case field == 2:
			f.Value = string(data)
		}
		return nil
	})
	return f, err
}

// parseLabels reads labels as clients write them: {app="x", job="y"}. Values are quoted as in Go.
func parseLabels(text string) (wire.Labels, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), "{")
	if !ok {
		return nil, errors.New(`labels do not begin with "{"`)
	}
	var ls wire.Labels
	for rest = strings.TrimSpace(rest); !strings.HasPrefix(rest, "}"); rest = strings.TrimSpace(rest) {
		if len(ls) > 0 {
			if rest, ok = strings.CutPrefix(rest, ","); !ok {
				return nil, fmt.Errorf(`"," or "}" expected before %.20q`, rest)
			}
			if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "}") {
				break
			}
		}
		if len(ls) == wire.MaxStreamLabels {
			return nil, fmt.Errorf("more than %d labels", wire.MaxStreamLabels)
		}
		name, after, ok := strings.Cut(rest, "=")
		if name = strings.TrimSpace(name); !ok || name == "" || len(name) > wire.MaxLabelName {
			return nil, fmt.Errorf("name and value expected at %.20q", rest)
		}
		after = strings.TrimSpace(after)
		quoted, err := strconv.QuotedPrefix(after)
		if err != nil {
			return nil, fmt.Errorf("value of label %s is not in quotes", name)
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("value of label %s: %w", name, err)
		}
		ls = append(ls, wire.Label{Name: name, Value: value})
		rest = after[len(quoted):]
	}
	if rest = strings.TrimSpace(strings.TrimPrefix(rest, "}")); rest != "" {
		return nil, fmt.Errorf("%.20q follows the labels", rest)
	}
	ls = slices.DeleteFunc(ls, func(l wire.Label) bool { return l.Value == "" })
	slices.SortStableFunc(ls, func(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) })
	return ls, nil
}
