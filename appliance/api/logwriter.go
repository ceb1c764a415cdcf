package api

import (
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/triward/triward/logstore/members"
)

// Forms of exported lines.
const (
	FormText  = "text"  // time, severity, host, source and text, one line each
	FormRaw   = "raw"   // the text alone, byte for byte
	FormJSONL = "jsonl" // one LogRow a line
	FormCSV   = "csv"   // columns
)

// LogForms lists the forms.
var LogForms = []string{FormText, FormRaw, FormJSONL, FormCSV}

// DefaultColumns are the columns of CSV when none are named.
var DefaultColumns = []string{"time", "severity", "host", "source", "file", "unit", "text"}

const maxColumns = 64

// ParseColumns reads a list of columns parted by commas: time (RFC 3339), t (ns since 1970), pos, kind, severity, text,
// text_b64 (of a text that is no UTF-8), or the name of a label, field or field in the text; label.NAME and field.NAME mean one of the two.
func ParseColumns(list string) ([]string, error) {
	var out []string
	for c := range strings.SplitSeq(list, ",") {
		if c = strings.TrimSpace(c); c == "" || len(c) > 128+len("label.") || slices.Contains(out, c) {
			return nil, fmt.Errorf("column %.40q: want different names of up to 128 bytes, parted by commas", c)
		}
		out = append(out, c)
	}
	if len(out) > maxColumns {
		return nil, fmt.Errorf("%d columns; at most %d", len(out), maxColumns)
	}
	return out, nil
}

// LogWriter writes lines in one of the forms.
type LogWriter struct {
	w       io.Writer
	form    string
	csv     *csv.Writer
	columns []string
	cells   []string
	buf     []byte
	reader  members.Reader
}

// NewLogWriter makes a LogWriter; columns are those of CSV, DefaultColumns when nil. Head writes the first line of CSV.
func NewLogWriter(w io.Writer, form string, columns []string) *LogWriter {
	if columns == nil {
		columns = DefaultColumns
	}
	l := &LogWriter{w: w, form: form, columns: columns}
	if form == FormCSV {
		l.csv = csv.NewWriter(struct{ io.Writer }{w}) // else it would take w's own buffer for its, and flush that
	}
	return l
}

// Head writes the names of the columns, in the form that has any.
func (l *LogWriter) Head() error {
	if l.csv == nil {
		return nil
	}
	l.cells = l.cells[:0]
	for _, c := range l.columns {
		l.cells = append(l.cells, harmless(c))
	}
	return l.row()
}

func (l *LogWriter) row() error {
	if err := l.csv.Write(l.cells); err != nil {
		return err
	}
	l.csv.Flush() // into what buffers anyway
	return l.csv.Error()
}

// Line writes a line.
func (l *LogWriter) Line(r *LogRow) error {
	var err error
	switch l.form {
	case FormJSONL:
		var line []byte
		if line, err = json.Marshal(r); err == nil {
			_, err = l.w.Write(append(line, '\n'))
		}
		return err
	case FormCSV:
		l.cells = l.cells[:0]
		for _, c := range l.columns {
			l.cells = append(l.cells, harmless(l.cell(r, c)))
		}
		return l.row()
	case FormRaw:
		l.buf = append(append(l.buf[:0], r.Raw()...), '\n')
	default:
		l.buf = r.appendText(l.buf[:0])
	}
	_, err = l.w.Write(l.buf)
	return err
}

// ExportEnd is the end of an export that is whole.
type ExportEnd struct {
	Lines  int64    `json:"lines"`
	Cursor string   `json:"cursor"` // behind the last line
	Stats  LogStats `json:"stats"`
}

// End writes, in JSON lines, that nothing is missing. The other forms have no place for it.
func (l *LogWriter) End(end *ExportEnd) error {
	if l.form != FormJSONL {
		return nil
	}
	line, err := json.Marshal(map[string]*ExportEnd{"end": end})
	if err == nil {
		_, err = l.w.Write(append(line, '\n'))
	}
	return err
}

// Cut writes, in JSON lines, that the rest is missing. The other forms have no place for it.
func (l *LogWriter) Cut(why, cursor string) error {
	if l.form != FormJSONL {
		return nil
	}
	line, err := json.Marshal(map[string]string{"error": why, "cursor": cursor})
	if err == nil {
		_, err = l.w.Write(append(line, '\n'))
	}
	return err
}

// cell returns a column of a row.
func (l *LogWriter) cell(r *LogRow, c string) string {
	v, named := r.column(c)
	if v == "" && named {
		name := members.NewName(c)
		v = string(l.reader.Get(r.Raw(), &name))
	}
	return v
}

// column returns the value of a column; named tells that it is the name of a field, which the text may hold.
func (r *LogRow) column(c string) (value string, named bool) {
	switch c {
	case "time":
		return r.rfc3339(), false
	case "t":
		return r.T, false
	case "pos":
		return r.Pos, false
	case "kind":
		if r.Kind == "" {
			return "log", false
		}
		return r.Kind, false
	case "severity":
		return r.Severity, false
	case "text":
		return r.Text, false
	case "text_b64":
		return r.TextB64, false
	}
	if name, ok := strings.CutPrefix(c, "label."); ok {
		return r.Labels[name], false
	}
	if name, ok := strings.CutPrefix(c, "field."); ok {
		return r.Fields[name], false
	}
	if v := r.Labels[c]; v != "" {
		return v, false
	}
	return r.Fields[c], true
}

func (r *LogRow) rfc3339() string {
	ns, err := strconv.ParseInt(r.T, 10, 64)
	if err != nil {
		return r.T
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339Nano)
}

// harmless keeps a spreadsheet from taking a cell for a formula, as OWASP recommends: what begins like one gets a ' in front.
func harmless(cell string) string {
	if cell != "" && strings.IndexByte("=+-@\t\r\n", cell[0]) >= 0 {
		return "'" + cell
	}
	if r, _ := utf8.DecodeRuneInString(cell); r == '＝' || r == '＋' || r == '－' || r == '＠' { // which some take for the same
		return "'" + cell
	}
	return cell
}

func (r *LogRow) appendText(dst []byte) []byte {
	dst = append(append(append(dst, r.rfc3339()...), ' '), r.Severity...)
	source := ""
	for _, name := range []string{"unit", "file", "source"} {
		if source == "" {
			source = r.Labels[name]
		}
	}
	for _, part := range []string{r.Labels["host"], source} {
		if part != "" {
			dst = appendPrintable(append(dst, ' '), part)
		}
	}
	return append(appendPrintable(append(dst, ": "...), r.Text), '\n')
}

// appendPrintable appends text as one line that moves no cursor and colours no terminal.
func appendPrintable(dst []byte, text string) []byte {
	for _, r := range text {
		switch {
		case r == '\n':
			dst = append(dst, "⏎"...)
		case r == '\t':
			dst = append(dst, '\t')
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			dst = append(dst, "\uFFFD"...)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

// encodeText returns the text of a row for JSON, and in base64 when JSON cannot carry it.
func encodeText(text []byte) (valid, b64 string) {
	if utf8.Valid(text) {
		return string(text), ""
	}
	return strings.ToValidUTF8(string(text), "\uFFFD"), base64.StdEncoding.EncodeToString(text)
}

// SetText sets the text of the row.
func (r *LogRow) SetText(text []byte) { r.Text, r.TextB64 = encodeText(text) }
