package systemtest

import (
	"os"
	"strings"
	"testing"
)

// promises are what must hold through the fault of a row and after it, by the name of the row. All rows that send have
// besides: nothing acknowledged is lost, nothing is there twice, all nodes come to the same state.
var promises = map[string]string{
	"kill-follower": "no gap in acknowledgements",
	"kill-leader":   "first acknowledgement",
	"kill-all":      "first acknowledgement after their start",

	"part-leader":          "first acknowledgement; in the minority no linearizable read, no write, 503 in 1 s",
	"part-island":          "the same, asked on its own machine",
	"part-follower":        "the same",
	"part-link":            "the rest goes on, every linearizable read that is answered is right",
	"part-mesh":            "all answer 503; first acknowledgement after mending",
	"oneway-leader-deaf":   "first acknowledgement; the leader steps down and answers 503",
	"oneway-leader-mute":   "the same",
	"oneway-follower-deaf": "the rest goes on; the follower answers 503",
	"oneway-follower-mute": "the rest goes on",
	"flap-leader":          "at most 2 leaders a minute, goodput 50 %",
	"flap-link":            "the same",

	"slow-follower": "no election, goodput 50 %",
	"slow-all":      "no election, every sender is served",
	"ack-lost":      "what comes again is recognised",
	"stop-leader":   "no stale linearizable read and no answer older than `min_index` on waking",
	"stop-short":    "the same",
	"stop-follower": "the same",
	"install-cut":   "the node keeps and serves what it had; installs in the end",

	"bit-log":         "no wrong answer by that node, asked all the time; repaired and told as events, or nothing depends on it",
	"bit-state":       "the same",
	"bit-metrics":     "the same",
	"bit-lines":       "the same",
	"damage-two":      "both repaired from the third",
	"damage-majority": "refused and named; repaired by an operator's order",

	"notify-kill":   "no message lost; one that comes twice has its key, and its reason in the history",
	"notify-part":   "the same",
	"notify-oneway": "the same",
	"notify-flap":   "the same",
	"notify-stop":   "the same",
	"notify-mixed":  "the same",

	"metadata":      "linearizable (porcupine); a token gives one certificate, and the list of agents has no other",
	"agent-offline": "lines in order, without a gap at any time, each once",

	"overload":         "429 with Retry-After, goodput 80 %, ack p99 2 s, no election, memory 1.2 x GOMEMLIMIT, the busiest sender named",
	"slow-connections": "senders go on, no election, memory 1.2 x GOMEMLIMIT",
	"many-sockets":     "the same",
	"new-series":       "the same",
	"hostile-bodies":   "4xx in 100 ms, memory grows by 32 MiB at most, all nodes still up",

	"power-one":            "nothing acknowledged is missing; serves again",
	"power-all":            "the same",
	"power-torn":           "the same",
	"power-marks":          "the same",
	"power-install":        "the same",
	"disk-frozen-leader":   "another leads; the node ends with code 1 within 10 s",
	"disk-frozen-follower": "no gap; the node ends with code 1 within 10 s",
	"disk-stutters":        "no node ends",
	"disk-slow-leader":     "no node ends, senders go on",
	"disk-slow-follower":   "the same",
	"disk-eio-leader":      "the node ends at once, syncs no file twice, has only what was synced before, and catches up",
	"disk-eio-follower":    "the same",
	"full-follower":        "an alert at 90 %; writes go on, the full node answers and catches up by itself",
	"full-leader":          "the same; another leads",
	"full-all":             "507 with its reason; questions and deletes are answered; goes on by itself",
	"clock-leader":         "no election, no cut, no token ends, alerts of `for: 3h` wait",
	"clock-follower":       "the same",

	"rolling-upgrade": "first acknowledgement after each change",
	"member-replace":  "first acknowledgement after mending; the new one votes once it has everything",
	"member-unsafe":   "what would leave no majority is refused, and says why",
	"restore":         "the digests of the manifest; wrong key, cut, altered and foreign ones are refused, the target is untouched",
	"consumer":        "every entry once and in order from the cursor on",

	"kill-index": "the cuts fall inside; every kind of search finds what the ledger has, asked of a node without its index too",
}

// The table of docs/reliability.md has a line for each row, in the words of the row, and no other.
func TestFaultTableIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), tableHead)
	if !ok {
		t.Fatalf("docs/reliability.md has no table with the head\n%s", tableHead)
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	lines := make(map[string]string)
	for line := range strings.Lines(table + "\n") {
		_, name, _ := strings.Cut(line, "`")
		name, _, _ = strings.Cut(name, "`")
		if lines[name] != "" {
			t.Errorf("docs/reliability.md has two lines of %q", name)
		}
		lines[name] = line
	}
	for _, row := range faultRows() {
		if promises[row.name] == "" {
			t.Errorf("nothing says what must hold in row %s: add it to promises", row.name)
		}
		line := lines[row.name]
		delete(lines, row.name)
		if !strings.HasPrefix(line, row.own()) || strings.Count(line, "|") != strings.Count(tableHead[:strings.Index(tableHead, "\n")], "|") {
			t.Errorf("docs/reliability.md has of row %s\n%sand should have a line of %d columns that begins with\n%s", row.name, line, 12, row.own())
		}
	}
	for name, line := range lines {
		t.Errorf("docs/reliability.md has a line of %q, which is no row: %s", name, line)
	}
	for name := range promises {
		if _, err := choose(faultRows(), name, func(*faultRow) bool { return true }); err != nil {
			t.Errorf("promises: %v", err)
		}
	}
}
