package testcluster

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/archive"
	"github.com/triward/triward/appliance/retention"
)

// TestDaysOfLogsAreArchived by the node that the policy names: retention waits for what fails, an event tells of it, and when
// the place works again the day is archived, goes, and is found again in a reading room of one node.
func TestDaysOfLogsAreArchived(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 3, watchesItself)
	n := c.Nodes[0]
	a := c.NewAgent(t, "web1")
	day := time.Now().UnixMilli()/retention.DayMs - 7
	date := archive.DateOf(day)
	for i := range 3 {
		_, err := a.Send(c.Nodes[i], a.Lines((day*retention.DayMs+int64(i)*1000)*1e6, "walrus one", fmt.Sprintf("walrus %d", i)))
		must(t, err)
	}
	must(t, os.MkdirAll(filepath.Dir(n.Config.Backup.Dir), 0o700))
	must(t, os.WriteFile(n.Config.Backup.Dir, nil, 0o600)) // no folder can be made there
	policy := map[string]any{"enabled": true, "target": map[string]any{"kind": "folder"}, "node": n.Config.NodeID, "hold": true, "hold_days": 30}
	must(t, c.put(c.Nodes[1], "/v1/logs/archive", policy))
	type overview struct {
		archive.Overview
		Rooms []archive.Room `json:"rooms"`
	}
	look := func(n *Node, say string, fine func(o *overview) bool) (o overview) {
		t.Helper()
		Until(t, say, func() error {
			o = overview{}
			if err := c.Get(n, "/v1/logs/archive", &o); err != nil {
				return err
			}
			if !fine(&o) {
				return fmt.Errorf("%+v", o)
			}
			return nil
		})
		return o
	}
	look(c.Nodes[2], "the failure", func(o *overview) bool { return len(o.Days) == 1 && o.Days[0].Error != "" && o.Running == nil })
	Until(t, "its event", func() error {
		told := c.events(t, n, "&kind=logs_archive_failed")
		if len(told) != 1 || !strings.Contains(told[0].Message, date) || told[0].Severity != "error" || told[0].Key != date {
			return fmt.Errorf("%+v", told)
		}
		return nil
	})
	var view api.RetentionView
	must(t, c.Get(n, "/v1/retention", &view))
	p := view.Policy
	p.Logs.AgeMs = 2 * retention.DayMs
	must(t, c.put(n, "/v1/retention", p))
	lines := func(n *Node, more string) (rows []api.LogRow, err error) {
		var page api.LogPage
		err = c.Get(n, fmt.Sprintf("/v1/logs/query?query=walrus&start=%d&end=%d%s", day*retention.DayMs*1e6, (day+1)*retention.DayMs*1e6, more), &page)
		return page.Rows, err
	}
	before, err := lines(n, "")
	if err != nil || len(before) != 6 {
		t.Fatalf("%d lines: %v", len(before), err)
	}

	must(t, os.Remove(n.Config.Backup.Dir))
	must(t, c.put(n, "/v1/logs/archive", policy)) // whoever saves it has it tried again
	o := look(c.Nodes[1], "the archive", func(o *overview) bool { return len(o.Days) == 1 && o.Days[0].Through > 0 })
	if d := o.Days[0]; d.Date != date || d.Totals.Logs.Lines != 6 || d.Node != n.Config.NodeID || d.Error != "" || len(o.Lost) != 0 {
		t.Errorf("%+v", o)
	}
	Until(t, "the cut", func() error {
		rows, err := lines(c.Nodes[2], "")
		if err == nil && len(rows) > 0 {
			err = errors.New("the lines are still there")
		}
		return err
	})
	if files := filesBelow(t, filepath.Join(n.Config.Backup.Dir, "logs", a.ID, date)); len(files) != 2 {
		t.Errorf("files %v", files)
	}
	var list archive.Listing
	must(t, c.Get(n, "/v1/logs/tree?of=archive&path=/logs/"+a.ID+"/"+date, &list))
	if len(list.Entries) != 1 || list.Entries[0].Lines != 6 {
		t.Errorf("tree %+v", list)
	}
	if err := c.Get(c.Nodes[1], "/v1/logs/tree?of=archive&path=/logs/"+a.ID, &list); err == nil {
		t.Error("a node finds in its own folder what another one stored")
	}

	var room archive.Room
	must(t, c.Post(n, "/v1/logs/archive/imports", map[string]any{"from": a.ID + "/" + date}, &room))
	look(n, "the room", func(o *overview) bool { return len(o.Rooms) == 1 && o.Rooms[0].State == archive.RoomReady })
	after, err := lines(n, "&archive="+room.ID)
	if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("%v, before %v: %v", after, before, err)
	}
	if _, err := lines(c.Nodes[1], "&archive="+room.ID); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("another node has the room: %v", err)
	}
	c.WaitEqual(t) // a room changes no digest
	must(t, c.Call(http.MethodDelete, n, "/v1/logs/archive/imports/"+room.ID, nil, nil))
	if left := filesBelow(t, filepath.Join(n.Config.DataDir, "reading")); len(left) != 0 {
		t.Errorf("files %v", left)
	}
}
