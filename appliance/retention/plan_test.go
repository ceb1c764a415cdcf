package retention_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/raftstate/command"
)

const (
	gib   = int64(1) << 30
	today = int64(20_000)
	noon  = today*retention.DayMs + retention.DayMs/2
)

func policy() retention.Policy { return retention.Default(90*24*time.Hour, 30*24*time.Hour) }

// disk is a report of a disk of total bytes whose kinds have so many equal days, the newest today.
func disk(total int64, kinds map[command.Kind][2]int64, foreign int64) retention.Report {
	r := retention.Report{
		Node: "n1", Total: total, Queue: gib / 8, QueueMost: gib / 4, Kinds: make(map[string]int64), Days: make(map[string][]retention.DayBytes),
	}
	used := r.Queue + foreign
	for k, of := range kinds {
		days, each := of[0], of[1]
		for d := range days {
			r.Days[k.String()] = append(r.Days[k.String()], retention.DayBytes{Day: today - d, Bytes: each})
		}
		r.Kinds[k.String()] = days * each
		used += days * each
	}
	r.Free = total - used
	return r
}

func floors(cuts []retention.Cut) string {
	var list []string
	for _, c := range cuts {
		list = append(list, fmt.Sprintf("%s<-%d %s", c.Kind, today-c.Floor/retention.DayMs, c.Reason))
	}
	return strings.Join(list, ", ")
}

func TestByRoom(t *testing.T) {
	const m, l, e = command.KindMetrics, command.KindLogs, command.KindEvents
	type kinds = map[command.Kind][2]int64
	for name, k := range map[string]struct {
		report  retention.Report
		change  func(*retention.Policy)
		want    string
		state   retention.State
		because string
	}{
		"room enough":                  {report: disk(100*gib, kinds{m: {30, gib}, l: {20, gib}}, 0), state: retention.StateOK},
		"beyond the warning":           {report: disk(100*gib, kinds{m: {50, gib}, l: {31, gib}}, 0), state: retention.StateWarning},
		"the oldest of the greediest":  {report: disk(100*gib, kinds{m: {40, gib}, l: {46, gib}}, 0), want: "logs<-44 size", state: retention.StateCutting},
		"events are greedy for little": {report: disk(100*gib, kinds{m: {30, gib}, l: {31, gib}, e: {25, gib}}, 0), want: "events<-23 size", state: retention.StateCutting},
		"a kind beyond its share":      {report: disk(100*gib, kinds{m: {20, gib / 8}, l: {71, gib}}, 0), want: "logs<-69 size", state: retention.StateOK},
		"many at once near the end":    {report: disk(100*gib, kinds{m: {1, gib}, l: {93, gib}}, 0), want: "logs<-66 size", state: retention.StateCutting},
		"a small share near the end": {
			report: disk(100*gib, kinds{m: {80, gib}, e: {96, gib / 8}}, 0), change: func(p *retention.Policy) { p.Metrics.Share, p.Events.Share = 90, 2 },
			want: "events<-13 size", state: retention.StateCutting,
		},
		"never the newest":     {report: disk(100*gib, kinds{m: {1, 90 * gib}}, 0), state: retention.StateStuck, because: "always kept"},
		"yesterday stays too":  {report: disk(100*gib, kinds{l: {2, 45 * gib}}, 0), state: retention.StateStuck, because: "always kept"},
		"files of others cost": {report: disk(100*gib, kinds{m: {30, gib}, l: {10, gib}}, 46*gib), want: "metrics<-28 size", state: retention.StateCutting},
		"but not everything":   {report: disk(100*gib, kinds{m: {15, gib}, l: {9, gib}}, 70*gib), state: retention.StateStuck, because: "not Triward's"},
		"nothing when turned off": {
			report: disk(100*gib, kinds{l: {97, gib}}, 0), change: func(p *retention.Policy) { p.Limit = 0 }, state: retention.StateWarning,
		},
		"a longer time is kept": {
			report: disk(100*gib, kinds{l: {46, gib}, m: {40, gib}}, 0),
			change: func(p *retention.Policy) { p.KeepMs = 45 * retention.DayMs; p.Logs.AgeMs = 90 * retention.DayMs },
			state:  retention.StateStuck, because: "always kept",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy()
			if k.change != nil {
				k.change(&p)
			}
			if got := floors(retention.ByRoom(&p, noon, []retention.Report{k.report})); got != k.want {
				t.Errorf("cuts %q, want %q", got, k.want)
			}
			if st, why := retention.Judge(&p, noon, &k.report); st != k.state || !strings.Contains(why, k.because) {
				t.Errorf("%s (%s), want %s (%s) at %.1f %%", st, why, k.state, k.because, k.report.Used())
			}
		})
	}
}

// The smallest disk decides; what passes by itself does not count, and nobody is cut for while he still deletes.
func TestByRoomOverNodes(t *testing.T) {
	p := policy()
	data := map[command.Kind][2]int64{command.KindLogs: {30, gib}, command.KindMetrics: {30, gib / 2}}
	large, small := disk(500*gib, data, 0), disk(52*gib, data, 0)
	small.Node = "n2"
	if got := floors(retention.ByRoom(&p, noon, []retention.Report{large, small})); got != "logs<-28 size" {
		t.Errorf("with a small disk: %q", got)
	}
	busy := small
	busy.Pending = true
	if got := floors(retention.ByRoom(&p, noon, []retention.Report{large, busy})); got != "" {
		t.Errorf("while days are deleted: %q", got)
	}
	taking := small
	taking.Installing = true
	if got := floors(retention.ByRoom(&p, noon, []retention.Report{large, taking})); got != "" {
		t.Errorf("while a node installs: %q", got)
	}
	held := disk(100*gib, map[command.Kind][2]int64{command.KindLogs: {43, gib}, command.KindMetrics: {40, gib}, command.KindEvents: {1, gib}}, 0)
	held.Kinds["logs"] += 9 * gib // days that were cut, which readers hold
	held.Free -= 9 * gib
	if got := floors(retention.ByRoom(&p, noon, []retention.Report{held})); got == "" {
		t.Error("nothing goes from a full disk")
	}
	held.Pass(9*gib, command.KindLogs, command.KindEvents)
	if got := floors(retention.ByRoom(&p, noon, []retention.Report{held})); got != "" {
		t.Errorf("while readers hold what was cut: %q", got)
	}
	if held.Pass(1<<50, command.KindMetrics); held.Kinds["metrics"] != 0 {
		t.Errorf("more passes than there is: %+v", held.Kinds)
	}
	passing := disk(52*gib, map[command.Kind][2]int64{command.KindLogs: {35, gib}}, 0)
	passing.Free -= 8 * gib
	passing.Temporary = 4 * gib
	passing.Queue += 4 * gib
	if got := floors(retention.ByRoom(&p, noon, []retention.Report{passing})); got != "" {
		t.Errorf("for images and a log that becomes shorter: %q", got)
	}
}

func TestByAge(t *testing.T) {
	p := policy()
	p.Events.AgeMs = 400 * retention.DayMs
	at := map[command.Kind]int64{command.KindLogs: (today - 30) * retention.DayMs}
	got := floors(retention.ByAge(&p, noon, func(k command.Kind) int64 { return at[k] }))
	if got != "metrics<-90 age, events<-400 age" {
		t.Errorf("%q", got)
	}
}

// However the disks are, a cut keeps what the policy always keeps, is made between days, and frees something.
func TestByRoomKeepsItsPromises(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 7))
	for range 20_000 {
		p := policy()
		p.KeepMs = (1 + rng.Int64N(20)) * retention.DayMs
		p.Limit = []int{0, 10, 50, 85, 95}[rng.IntN(5)]
		p.Logs.Share = 1 + rng.IntN(100)
		r := retention.Report{
			Total: rng.Int64N(200 * gib), Kinds: map[string]int64{}, Days: map[string][]retention.DayBytes{}, Queue: rng.Int64N(gib),
			QueueMost: rng.Int64N(gib), Temporary: rng.Int64N(gib),
		}
		r.Free = rng.Int64N(r.Total + 1)
		for _, k := range command.Kinds {
			for range rng.IntN(30) {
				d := retention.DayBytes{Day: today - rng.Int64N(100) + 2, Bytes: rng.Int64N(4 * gib)}
				r.Days[k.String()] = append(r.Days[k.String()], d)
				r.Kinds[k.String()] += d.Bytes
			}
		}
		for _, c := range retention.ByRoom(&p, noon, []retention.Report{r}) {
			if c.Floor%retention.DayMs != 0 || c.Floor > noon-p.KeepMs || p.Limit == 0 || c.Reason != command.CutSize {
				t.Fatalf("cut %+v of %+v by %+v", c, r, p)
			}
		}
		retention.Judge(&p, noon, &r)
		if perDay, days := retention.Outlook(&p, noon, &r); perDay < 0 || days < -1 {
			t.Fatalf("outlook %d %d", perDay, days)
		}
	}
}

func TestOutlook(t *testing.T) {
	p := policy()
	r := disk(100*gib, map[command.Kind][2]int64{command.KindLogs: {11, gib}, command.KindMetrics: {11, gib}}, 0)
	if perDay, days := retention.Outlook(&p, noon, &r); perDay != 2*gib || days != 43 {
		// Logs stop to grow after 20 days more, at 31 with the one of today: 84.7 - 22.1 = 62.6 are left; they take 2 a day, then 1.
		t.Errorf("%d a day, full in %d days", perDay, days)
	}
	r = disk(1000*gib, map[command.Kind][2]int64{command.KindLogs: {11, gib}, command.KindMetrics: {11, gib}}, 0)
	if _, days := retention.Outlook(&p, noon, &r); days != -1 {
		t.Errorf("a disk that holds all: full in %d days", days)
	}
}

func TestValidate(t *testing.T) {
	good := policy()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	rec := retention.Record{Policy: good, By: "ada", At: 5}
	if got, err := retention.Decode(rec.Encode()); err != nil || got != rec {
		t.Errorf("%+v %v", got, err)
	}
	for place, spoil := range map[string]func(*retention.Policy){
		"metrics.age_ms": func(p *retention.Policy) { p.Metrics.AgeMs = 3 * retention.DayMs }, "logs.age_ms": func(p *retention.Policy) { p.Logs.AgeMs++ },
		"events.age_ms": func(p *retention.Policy) { p.Events.AgeMs = 0 }, "logs.share_pct": func(p *retention.Policy) { p.Logs.Share = 101 },
		"events.share_pct": func(p *retention.Policy) { p.Events.Share = 0 }, "limit_pct": func(p *retention.Policy) { p.Limit = 96 },
		"warn_pct": func(p *retention.Policy) { p.Warn = 86 }, "keep_ms": func(p *retention.Policy) { p.KeepMs = 31 * retention.DayMs },
	} {
		p := policy()
		spoil(&p)
		if err := p.Validate(); err == nil || !strings.HasPrefix(err.Error(), place) {
			t.Errorf("%s: %v", place, err)
		}
	}
}
