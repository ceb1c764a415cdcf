package intake

import (
	"context"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// Lines stores lines of one stream that this node itself says, and returns how many the log took. An error says that the
// outcome is not known, or that there was no room: they may be given again, since repeats are found by time and text.
// Lines that were refused for good are no error.
func (in *Intake) Lines(ctx context.Context, labels map[string]string, list []wire.LogLine) (stored int, err error) {
	p := &linePush{in: in}
	h := hold{in: in}
	defer h.release()
	var size int64
	for i := range list {
		size += int64(len(list[i].Text)) + 24
	}
	if err := h.take(size); err != nil {
		return 0, err
	}
	s, err := p.newStream(wire.StreamLog, wire.LabelsFromMap(labels), "triward")
	if err != nil {
		return 0, err
	}
	for _, l := range list {
		p.add(s, l, command.RepeatsDropped)
	}
	if err := p.push(ctx); err != nil {
		return 0, err
	}
	_ = p.done(in, "own", "lines") // counts them; what was refused is refused again
	return p.accepted + p.duplicates, nil
}
