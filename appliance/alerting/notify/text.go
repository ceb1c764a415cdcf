package notify

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// words are the fixed texts of messages for people.
type words struct {
	firing, resolved, test, escalated, more, since, until, ack, assigned, key string
}

var texts = map[string]words{
	"en": {
		firing: "FIRING", resolved: "RESOLVED", test: "TEST", escalated: "ESCALATED, nobody acknowledged it", more: "and %d more",
		since: "since", until: "until", ack: "acknowledged by", assigned: "assigned to", key: "ref",
	},
	"zh": {
		firing: "告警", resolved: "恢复", test: "测试", escalated: "已升级：无人确认", more: "另有 %d 条",
		since: "开始于", until: "结束于", ack: "已确认：", assigned: "负责人：", key: "编号",
	},
}

// title is the message in one line.
func (m *Message) title(lang string) string {
	w := texts[lang]
	state, n := w.firing, m.Firing()
	if n == 0 {
		state, n = w.resolved, len(m.Alerts)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[%s:%d]", state, n)
	if m.Test {
		fmt.Fprintf(&b, "[%s]", w.test)
	}
	if m.Escalation {
		fmt.Fprintf(&b, "[%s]", w.escalated)
	}
	if len(m.Alerts) > 0 {
		names := map[string]bool{}
		for i := range m.Alerts {
			names[m.Alerts[i].Labels["alertname"]] = true
		}
		list := slices.Sorted(maps.Keys(names))
		b.WriteString(" " + strings.Join(list[:min(3, len(list))], ", "))
	}
	if len(m.GroupLabels) > 0 {
		b.WriteString(" " + pairs(m.GroupLabels, "alertname"))
	}
	return oneLine(strings.TrimSpace(b.String()), 200)
}

func oneLine(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return cut(s, most)
}

// cut shortens a text to at most most bytes, at a rune.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-3], "") + "..."
}

func pairs(m map[string]string, without string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k != without {
			list = append(list, k+"="+m[k])
		}
	}
	return strings.Join(list, " ")
}

// body lists the alerts in at most most bytes. bold marks a text as the receiver's form of markdown does.
func (m *Message) body(lang string, most int, bold func(string) string) string {
	w := texts[lang]
	tail := fmt.Sprintf("\n%s: %s\n", w.key, m.Key)
	if m.ExternalURL != "" {
		tail = "\n" + m.ExternalURL + "/alerts" + tail
	}
	room := most - len(tail) - 100
	var b strings.Builder
	shown := 0
	for i := range m.Alerts {
		one := m.Alerts[i].text(w, bold)
		if b.Len()+len(one) > room {
			if i == 0 {
				b.WriteString(cut(one, room))
				shown++
			}
			break
		}
		b.WriteString(one)
		shown++
	}
	if rest := len(m.Alerts) - shown + m.Truncated; rest > 0 {
		fmt.Fprintf(&b, w.more+"\n", rest)
	}
	return b.String() + tail
}

func (a *Alert) text(w words, bold func(string) string) string {
	state := w.resolved
	if a.Firing {
		state = w.firing
	}
	head := fmt.Sprintf("[%s] %s", state, a.Labels["alertname"])
	if s := a.Labels["severity"]; s != "" {
		head += " (" + s + ")"
	}
	var b strings.Builder
	b.WriteString(bold(oneLine(head, 300)) + "\n")
	for _, name := range []string{"summary", "description"} {
		if text := a.Annotations[name]; text != "" {
			b.WriteString(cut(text, 1000) + "\n")
		}
	}
	labels := maps.Clone(orEmpty(a.Labels))
	delete(labels, "severity")
	b.WriteString(cut(pairs(labels, "alertname"), 1000) + "\n")
	b.WriteString(w.since + " " + clock(a.StartsAt))
	if !a.Firing {
		b.WriteString(" " + w.until + " " + clock(a.EndsAt))
	}
	b.WriteString("\n")
	if a.AckedBy != "" {
		b.WriteString(w.ack + " " + a.AckedBy + "\n")
	}
	if a.AssignedTo != "" {
		b.WriteString(w.assigned + " " + a.AssignedTo + "\n")
	}
	if u := a.Annotations["runbook_url"]; u != "" {
		b.WriteString(cut(u, 500) + "\n")
	}
	return b.String() + "\n"
}

func clock(ms int64) string { return time.UnixMilli(ms).Format("2006-01-02 15:04:05 -07:00") }
