package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/auth"
)

func exportRow(t, pos, text string, fields map[string]string) LogRow {
	r := LogRow{T: t, Pos: pos, Severity: "error", Labels: map[string]string{"host": "web-1", "file": "/var/log/x"}, Fields: fields}
	r.SetText([]byte(text))
	return r
}

func exportRows() []LogRow {
	return []LogRow{
		exportRow("1700000000000000001", "5.1", "=cmd|' /C calc'!A0", map[string]string{"user": "+1", "host": "other"}),
		exportRow("1700000000000000002", "5.2", "two\r\nlines, \"quoted\" \x1b[31m", nil),
		exportRow("1700000000000000003", "5.3", "bad \xff\xfe bytes", map[string]string{"user": "kim"}),
		exportRow("1700000000000000004", "5.4", "错误 \u202e", nil),
	}
}

// export asks a real server, so that trailers and broken connections are what a client sees.
func export(t *testing.T, s *stand, query string) (resp *http.Response, body []byte, err error) {
	t.Helper()
	srv := httptest.NewServer(s.api)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/logs/export?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.tokens[auth.RoleViewer])
	resp, err = srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp, body, err
}

func TestExportIsWholeInEveryForm(t *testing.T) {
	s := newStand(t, nil)
	s.parts.exported = exportRows()
	for _, form := range LogForms {
		resp, body, err := export(t, s, "format="+form+"&columns=time,severity,host,label.file,user,text,text_b64,t,pos,kind&start=0")
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(form, resp.StatusCode, err, string(body))
		}
		if n := resp.Trailer.Get(ExportLinesTrailer); n != "4" {
			t.Errorf("%s: trailer tells of %q lines", form, n)
		}
		if c := resp.Trailer.Get(ExportCursorTrailer); c != "1700000000000000004.5.4" {
			t.Errorf("%s: cursor %q", form, c)
		}
		var st LogStats
		if err := json.Unmarshal([]byte(resp.Trailer.Get(ExportStatsTrailer)), &st); err != nil || st.Lines != 4 {
			t.Errorf("%s: %+v %v", form, st, err)
		}
		if kind := resp.Header.Get("Content-Type"); kind != exportTypes[form] {
			t.Errorf("%s: type %s", form, kind)
		}
		checkForm(t, form, body)
	}
	_, body, err := export(t, s, "end_line=true")
	if lines := strings.Split(strings.TrimSpace(string(body)), "\n"); err != nil || len(lines) != 5 || !strings.HasPrefix(lines[4], `{"end":{"lines":4,"cursor":"1700000000000000004.5.4","stats":{`) {
		t.Errorf("%v\n%s", err, body)
	}
	if !s.parts.lastLogs.Oldest || s.parts.lastLogs.Limit != 0 {
		t.Errorf("asked for %+v", s.parts.lastLogs)
	}
}

func checkForm(t *testing.T, form string, body []byte) {
	t.Helper()
	rows := exportRows()
	switch form {
	case FormRaw:
		var want []byte
		for i := range rows {
			want = append(append(want, rows[i].Raw()...), '\n')
		}
		if !bytes.Equal(body, want) {
			t.Errorf("raw: %q", body)
		}
	case FormJSONL:
		lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
		for i, l := range lines {
			var r LogRow
			if err := json.Unmarshal([]byte(l), &r); err != nil || !bytes.Equal(r.Raw(), rows[i].Raw()) || r.Cursor() != rows[i].Cursor() {
				t.Errorf("line %d: %s %v", i, l, err)
			}
		}
		if len(lines) != len(rows) {
			t.Errorf("%d lines", len(lines))
		}
	case FormText:
		want := "2023-11-14T22:13:20.000000001Z error web-1 /var/log/x: =cmd|' /C calc'!A0\n" +
			"2023-11-14T22:13:20.000000002Z error web-1 /var/log/x: two\uFFFD⏎lines, \"quoted\" \uFFFD[31m\n" +
			"2023-11-14T22:13:20.000000003Z error web-1 /var/log/x: bad \uFFFD bytes\n" +
			"2023-11-14T22:13:20.000000004Z error web-1 /var/log/x: 错误 \uFFFD\n"
		if string(body) != want {
			t.Errorf("text:\n%s\nwant\n%s", body, want)
		}
	case FormCSV:
		cells, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
		if err != nil || len(cells) != 5 {
			t.Fatalf("%v\n%s", err, body)
		}
		want := [][]string{
			{"time", "severity", "host", "label.file", "user", "text", "text_b64", "t", "pos", "kind"},
			{"2023-11-14T22:13:20.000000001Z", "error", "web-1", "/var/log/x", "'+1", "'=cmd|' /C calc'!A0", "", "1700000000000000001", "5.1", "log"},
		}
		for i, w := range want {
			for k := range w {
				if cells[i][k] != w[k] {
					t.Errorf("row %d column %d: %q, want %q", i, k, cells[i][k], w[k])
				}
			}
		}
		if cells[3][5] != "bad \uFFFD bytes" || cells[3][6] != "YmFkIP/+IGJ5dGVz" || cells[2][5] != "two\nlines, \"quoted\" \x1b[31m" && cells[2][5] != "two\r\nlines, \"quoted\" \x1b[31m" {
			t.Errorf("%q", cells)
		}
	}
}

// Whoever takes a cut export for a whole one would miss lines without knowing.
func TestCutExportIsToldFromAWholeOne(t *testing.T) {
	for _, form := range LogForms {
		s := newStand(t, nil)
		s.parts.exported, s.parts.exportErr = exportRows(), errors.New("the disk is gone")
		resp, body, err := export(t, s, "format="+form)
		if resp.StatusCode != 200 || err == nil || resp.Trailer.Get(ExportLinesTrailer) != "" {
			t.Errorf("%s: %d %v, trailers %v", form, resp.StatusCode, err, resp.Trailer)
		}
		if form == FormJSONL && !strings.HasSuffix(string(body), `"cursor":"1700000000000000004.5.4","error":"the node met an error that it has no name for; its log tells more under the request id"}`+"\n") {
			t.Errorf("last line: %s", body)
		}
	}
	s := newStand(t, nil)
	s.parts.logErr = ErrBusy // before anything is sent it is an answer as any other
	if resp, _, err := export(t, s, ""); err != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("busy: %v %v", resp.Status, err)
	}
}

func TestExportRefusesBadColumnsAndGoesOn(t *testing.T) {
	s := newStand(t, nil)
	s.parts.exported = exportRows()[:1]
	for _, q := range []string{
		"columns=a,,b", "columns=a,a", "format=xml", "limit=0", "limit=x", "order=up", "columns=" + strings.Repeat("x", 200),
		"columns=" + strings.Repeat("a,", 70), "start=5&end=4",
	} {
		if resp, body, _ := export(t, s, q); resp.StatusCode != 400 {
			t.Errorf("%s: %d %s", q, resp.StatusCode, body)
		}
	}
	for asked, marked := range map[string]bool{"format=csv&bom=true": true, "format=csv": false, "format=text&bom=true": false, "format=csv&bom=true&cursor=1.2.3": false} {
		if _, body, err := export(t, s, asked); err != nil || bytes.HasPrefix(body, []byte("\ufefftime,")) != marked || bytes.HasPrefix(body, []byte("\ufeff")) != marked {
			t.Errorf("%s: %v, begins with %.20q", asked, err, body)
		}
	}
	_, body, err := export(t, s, "format=csv&cursor=1.2.3&order=newest&limit=9")
	if err != nil || strings.Contains(string(body), "severity") || s.parts.lastLogs.Cursor != "1.2.3" || s.parts.lastLogs.Oldest || s.parts.lastLogs.Limit != 9 {
		t.Errorf("%s %+v %v", body, s.parts.lastLogs, err)
	}
}

// A client that goes away frees the place of its export.
func TestExportEndsWithItsClient(t *testing.T) {
	s := newStand(t, nil)
	ended := make(chan error, 1)
	s.parts.exported = exportRows()
	s.parts.exportWait = func(ctx context.Context) error {
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	srv := httptest.NewServer(s.api)
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/v1/logs/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.tokens[auth.RoleViewer])
	resp, err := srv.Client().Do(req) // returns with the head of the answer, before there is a line
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
