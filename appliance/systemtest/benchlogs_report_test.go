package systemtest

import (
	"fmt"
)

// What the design recorded of Loki 3.8, as a share of what VictoriaLogs took on the same lines. That Loki is not run here.
const (
	lokiCPU  = 1 / 1.07
	lokiDisk = 1 / 0.85
)

// Goals of the design, as shares of what the peer takes.
const (
	goalCPU   = 0.6
	goalDisk  = 0.85
	goalQueue = 45 // bytes a line
)

// report writes the tables.
func (b *benchLogs) report(ours, three, peer, loki *measured) {
	million := float64(b.c.n) / 1e6
	line := float64(b.c.n)
	b.say("| whole path | Triward, 1 node | Triward, 3 nodes, leader | follower | VictoriaLogs | Loki 1.6.1 | goal | Loki 3.8, recorded, not measured here |\n|---|--:|--:|--:|--:|--:|--:|--:|")
	row := func(name string, of func(m *measured) string, follower, goal, recorded string) {
		cell := func(m *measured) string {
			if m == nil {
				return ""
			}
			return of(m)
		}
		b.say("| %s | %s | %s | %s | %s | %s | %s | %s |", name, cell(ours), cell(three), follower, cell(peer), cell(loki), goal, recorded)
	}
	var cpuGoal, diskGoal, lokiC, lokiD, follower string
	if peer != nil {
		cpuGoal = goal(ours.cpu/million, goalCPU*peer.cpu/million, "%.2f")
		diskGoal = goal(ours.disk/line, goalDisk*peer.disk/line, "%.1f")
		lokiC, lokiD = fmt.Sprintf("%.2f", lokiCPU*peer.cpu/million), fmt.Sprintf("%.1f", lokiDisk*peer.disk/line)
	}
	if three != nil {
		follower = fmt.Sprintf("%.2f", three.others/million)
	}
	row("CPU-s a million lines, until at rest", func(m *measured) string { return fmt.Sprintf("%.2f", m.cpu/million) }, follower, cpuGoal, lokiC)
	row("of that, what idling takes in the same time", func(m *measured) string { return fmt.Sprintf("%.2f", m.idle/million) }, "", "", "")
	row("lines a second", func(m *measured) string { return fmt.Sprintf("%.0f", line/m.fed.Seconds()) }, "", "", "")
	row("acknowledged, p50 / p99 ms", func(m *measured) string {
		if len(m.acks) == 0 {
			return ""
		}
		a := timing{times: m.acks}
		return fmt.Sprintf("%.0f / %.0f", a.at(0.5), a.at(0.99))
	}, "", "", "")
	row("store, bytes a line", func(m *measured) string { return fmt.Sprintf("%.1f", m.disk/line) }, "", diskGoal, lokiD)
	row("Raft log, bytes a line", func(m *measured) string {
		if m.queue == 0 {
			return ""
		}
		return fmt.Sprintf("%.1f", m.queue/line)
	}, "", goal(ours.queue/line, goalQueue, "%.0f"), "")
	row("RSS at rest, MiB", func(m *measured) string { return fmt.Sprintf("%.0f", m.rss) }, "", "", "")
	row("RSS at most, MiB", func(m *measured) string { return fmt.Sprintf("%.0f", m.peak) }, "", "", "")
	b.parts(ours)
	b.questions(ours, three, peer, loki)
	b.say("Memory while searching: %s.\n", ours.small)
	for _, n := range b.notes {
		b.say("%s.\n", n)
	}
}

// goal says what the goal is and whether it is met.
func goal(got, want float64, format string) string {
	verdict := "met"
	if got > want {
		verdict = "**missed**"
	}
	return fmt.Sprintf(format+" %s", want, verdict)
}

// parts tells where the bytes of our store are.
func (b *benchLogs) parts(m *measured) {
	b.say("\n| part of the store, 1 node | bytes a line |\n|---|--:|")
	for _, p := range m.parts {
		b.say("| %s | %.2f |", p.name, p.bytes/float64(b.c.n))
	}
	if len(m.parts) == 0 {
		b.say("| (this program does not tell) | |")
	}
	b.say("")
}

// questions tells how long they took and whether the answers were right.
func (b *benchLogs) questions(ours, three, peer, loki *measured) {
	b.say("| question | lines found | Triward warm, p50 / p99 ms | CPU ms | cold, p50 / max ms | without word index, warm p50 / p99 ms, CPU ms | VictoriaLogs warm, p50 / p99 ms | CPU ms | cold, p50 / max ms | Loki 1.6.1 warm, p50 / p99 ms | CPU ms | goal, warm p50 ms | Loki 3.8 p50 ms, recorded, not measured here |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for k := range b.ref.queries {
		q := &b.ref.queries[k]
		plain := ""
		if ours.plain != nil {
			plain = fmt.Sprintf("%s, %.1f", pair(ours.plain, k, 0.99), ours.plain[k].cpu)
		}
		theirs, theirCPU, theirCold, want, recorded := "", "", "", "", ""
		if peer != nil {
			theirs, theirCPU, theirCold = pair(peer.warm, k, 0.99), fmt.Sprintf("%.1f", peer.warm[k].cpu), pair(peer.coldly, k, 1)
			want = goal(ours.warm[k].at(0.5), q.goal*peer.warm[k].at(0.5), "%.1f")
			if q.recorded > 0 {
				recorded = fmt.Sprintf("%.0f", peer.warm[k].at(0.5)/q.recorded)
			}
			if wrong := peer.warm[k].wrong; wrong != "" {
				b.notes = append(b.notes, fmt.Sprintf("VictoriaLogs, %s (`%s`): %s", q.name, q.peer, wrong))
			}
		}
		lokis, lokiCPU := "", ""
		if loki != nil {
			m := &loki.warm[k]
			if lokis = pair(loki.warm, k, 0.99); m.none == "" {
				lokiCPU = fmt.Sprintf("%.1f", m.cpu)
			}
			if m.wrong != "" {
				b.notes = append(b.notes, fmt.Sprintf("Loki, %s (`%s`): %s", q.name, q.logql, m.wrong))
			}
		}
		b.say("| %s | %d | %s | %.1f | %s | %s | %s | %s | %s | %s | %s | %s | %s |", q.name, b.ref.want[k].count,
			pair(ours.warm, k, 0.99), ours.warm[k].cpu, pair(ours.coldly, k, 1), plain, theirs, theirCPU, theirCold, lokis, lokiCPU, want, recorded)
		if q.note != "" {
			b.notes = append(b.notes, fmt.Sprintf("%s: %s", q.name, q.note))
		}
	}
	b.say("\nAnswers are compared with a walk through all lines, time and text of each row included: Triward %s, warm, cold, with small caches and without its index%s%s. Times are from the request to the last byte of the answer.\n",
		b.right(ours), map[bool]string{true: ", and the same on each of three nodes"}[three != nil], b.theirsRight("VictoriaLogs", peer)+b.theirsRight("Loki", loki))
	if ours.noIndex != "" {
		b.notes = append(b.notes, ours.noIndex)
	}
	if b.cold > 0 {
		b.notes = append(b.notes, fmt.Sprintf("Cold: %d rounds; in each the process was started again, and the page cache was dropped before each question", b.cold))
	}
}

// right says how many answers were right.
func (b *benchLogs) right(m *measured) string {
	n, asked := 0, 0
	for k := range m.warm {
		if m.warm[k].none != "" {
			continue
		}
		asked++
		if m.warm[k].wrong == "" && (m.coldly == nil || m.coldly[k].wrong == "") && (m.plain == nil || m.plain[k].wrong == "") {
			n++
		}
	}
	return fmt.Sprintf("%d of %d right", n, asked)
}

func (b *benchLogs) theirsRight(name string, m *measured) string {
	if m == nil {
		return ""
	}
	return "; " + name + " " + b.right(m) + ", others are named below"
}

// pair is two quantiles of a question.
func pair(of []timing, k int, high float64) string {
	switch {
	case of == nil:
		return ""
	case of[k].none != "":
		return of[k].none
	}
	return fmt.Sprintf("%.1f / %.1f", of[k].at(0.5), of[k].at(high))
}
