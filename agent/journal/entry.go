package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/triward/triward/agent/lines"
)

// takenFields is what Config.Take is given of an entry.
const takenFields = "MESSAGE,MESSAGE_ID,PRIORITY,UNIT,USER_UNIT,UNIT_RESULT,_TRANSPORT,SYSLOG_IDENTIFIER," +
	"COREDUMP_COMM,COREDUMP_PID,COREDUMP_EXE,COREDUMP_UNIT,COREDUMP_SIGNAL_NAME"

// Entry is an entry of the journal as Config.Take is given it.
type Entry struct {
	Cursor string
	Time   time.Time

	values map[string]json.RawMessage
}

// Text returns a value of the entry as text of at most lines.NameMax bytes, the message whole; "" when it has none.
func (e *Entry) Text(key string) string {
	if key == "MESSAGE" {
		return string(text(e.values[key]))
	}
	return name(e.values[key])
}

// taken gives an entry to Config.Take.
func (f *Follower) taken(ctx context.Context, b []byte) error {
	e := Entry{Time: time.Now()}
	if err := json.Unmarshal(b, &e.values); err != nil {
		f.lost(ctx, "", fmt.Sprintf("it is not the JSON expected: %v", err))
		return nil
	}
	e.Cursor = string(text(e.values[keyCursor]))
	if e.Cursor == "" || len(e.Cursor) > maxCursor {
		return nil
	}
	if us, err := strconv.ParseInt(lines.Valid(string(text(e.values["__REALTIME_TIMESTAMP"])), 32), 10, 64); err == nil && us > 0 && us < math.MaxInt64/1000 {
		e.Time = time.UnixMicro(us)
	}
	if err := f.cfg.Take(ctx, &e); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return &spoolError{fmt.Errorf("take entries of the journal: %w", err)}
	}
	f.cursor, f.cfg.Since = e.Cursor, e.Time.Add(time.Microsecond)
	f.Entries.Add(1)
	return nil
}
