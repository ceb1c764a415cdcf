package systemtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/triward/triward/agent/wire"
)

// corpusLine is a line of the corpus of the bench of logs. Whoever gets one may keep it.
type corpusLine struct {
	t        int64 // nanoseconds, more than that of the line before
	host     int   // 0 to corpusHosts-1
	file     string
	severity wire.Severity
	fields   []wire.Label
	text     []byte
}

const (
	corpusHosts = 12
	corpusSeed  = 5
	rareWord    = "quokkafault"
)

// corpus is some million lines of one day, made from files of real ones: the same lines whenever it is walked through.
type corpus struct {
	n     int
	day   time.Time // its first moment; the day is over
	kinds []corpusKind
	rare  int // line n is one with the rare word when n%rare == rare/2
}

// corpusKind is lines of one format, of which there are weight in a hundred.
type corpusKind struct {
	file   string
	weight int
	make   func(c *corpus, rng *rand.Rand, at time.Time) ([]byte, []wire.Label)
}

// realFormat is how lines of a file of real ones begin.
type realFormat struct {
	name   string // of the file, without .log
	file   string // as agents name it
	weight int
	begins string // what stands before the message, with the name that stays in a group
	layout string // the same for another time, \x00 being that name
}

func realFormats() []realFormat {
	return []realFormat{
		{"Apache", "/var/log/apache.log", 12, `^\[\w+ \w+ \d+ \d\d:\d\d:\d\d \d+\] ()`, "[Mon Jan 02 15:04:05 2006] \x00"},
		{"HDFS", "/var/log/hdfs.log", 18, `^\d{6} \d{6} ()`, "060102 150405 \x00"},
		{"Linux", "/var/log/messages", 12, `^\w+ +\d+ \d\d:\d\d:\d\d ()`, "Jan _2 15:04:05 \x00"},
		{"OpenSSH", "/var/log/auth.log", 14, `^\w+ +\d+ \d\d:\d\d:\d\d ()`, "Jan _2 15:04:05 \x00"},
		{"OpenStack", "/var/log/nova.log", 12, `^(\S+?)\.\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} `, "\x00.2006-01-02_15:00:00 2006-01-02 15:04:05.000 "},
		{"Zookeeper", "/var/log/zookeeper.log", 12, `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ()`, "2006-01-02 15:04:05,000 \x00"},
	}
}

// newCorpus reads the real lines below dir.
func newCorpus(dir string, n int, day time.Time) (*corpus, error) {
	c := &corpus{n: n, day: day, rare: max(2, n/30)}
	for _, f := range realFormats() {
		path := filepath.Join(dir, f.name+".log")
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("real lines for the bench of logs (loghub's %s with 2,000 lines; LOGS= names the folder): %w", f.name, err)
		}
		kind, err := f.kind(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		c.kinds = append(c.kinds, kind)
	}
	c.kinds = append(c.kinds,
		corpusKind{"/var/log/app.log", 8, (*corpus).jsonLine},
		corpusKind{"/var/log/app.log", 6, (*corpus).logfmtLine},
		corpusKind{"/var/log/app.log", 3, (*corpus).fieldLine},
		corpusKind{"/var/log/shop.log", 3, (*corpus).chineseLine},
	)
	return c, nil
}

// realLine is a real line without its time.
type realLine struct{ name, text []byte }

func (f realFormat) kind(b []byte) (corpusKind, error) {
	begins := regexp.MustCompile(f.begins)
	var lines []realLine
	for line := range bytes.SplitSeq(b, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if m := begins.FindSubmatchIndex(line); m != nil {
			lines = append(lines, realLine{line[m[2]:m[3]], line[m[1]:]})
		}
	}
	if len(lines) < 1000 {
		return corpusKind{}, fmt.Errorf("only %d lines begin as those of %s do", len(lines), f.name)
	}
	layout := []byte(f.layout)
	return corpusKind{f.file, f.weight, func(_ *corpus, rng *rand.Rand, at time.Time) ([]byte, []wire.Label) {
		l := &lines[rng.IntN(len(lines))]
		text := make([]byte, 0, len(layout)+len(l.name)+len(l.text)+8)
		before, behind, _ := bytes.Cut(layout, []byte{0})
		text = at.AppendFormat(text, string(before))
		text = append(text, l.name...)
		text = at.AppendFormat(text, string(behind))
		return freshDigits(text, l.text, rng), nil
	}}, nil
}

// freshDigits appends src with other digits where they are an id, a port or an address: runs of at least four, hexadecimal
// words of at least eight, and parts of addresses.
func freshDigits(dst, src []byte, rng *rand.Rand) []byte {
	for i := 0; i < len(src); {
		if !isAlnum(src[i]) {
			dst = append(dst, src[i])
			i++
			continue
		}
		end, digits, hex := i, 0, true
		for ; end < len(src) && isAlnum(src[end]); end++ {
			b := src[end]
			if isDigit(b) {
				digits++
			} else if b < 'a' || b > 'f' {
				hex = false
			}
		}
		word := src[i:end]
		dotted := i > 1 && src[i-1] == '.' && isDigit(src[i-2]) || end+1 < len(src) && src[end] == '.' && isDigit(src[end+1])
		switch {
		case digits == 0:
			dst = append(dst, word...)
		case hex && len(word) >= 8 && digits < len(word):
			for range word {
				dst = append(dst, "0123456789abcdef"[rng.IntN(16)])
			}
		case digits == len(word) && len(word) <= 3 && dotted:
			dst = strconv.AppendInt(dst, int64(1+rng.IntN(254)), 10)
		default:
			dst = freshRuns(dst, word, rng)
		}
		i = end
	}
	return dst
}

// freshRuns appends a word with other digits in runs of at least four.
func freshRuns(dst, word []byte, rng *rand.Rand) []byte {
	for i := 0; i < len(word); {
		end := i
		for end < len(word) && isDigit(word[end]) {
			end++
		}
		switch {
		case end == i:
			dst = append(dst, word[i])
			end++
		case end-i < 4:
			dst = append(dst, word[i:end]...)
		default:
			dst = append(dst, byte('1'+rng.IntN(9)))
			for range end - i - 1 {
				dst = append(dst, byte('0'+rng.IntN(10)))
			}
		}
		i = end
	}
	return dst
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }
func isAlnum(b byte) bool { return isDigit(b) || 'a' <= b|0x20 && b|0x20 <= 'z' }

var (
	appPaths   = []string{"/api/v1/orders", "/api/v1/carts", "/api/v1/users", "/login", "/metrics", "/static/app.js"}
	appStatus  = []int{200, 200, 200, 200, 200, 200, 201, 204, 302, 304, 400, 401, 404, 404, 500, 503}
	appService = []string{"checkout", "billing", "catalog", "search", "gateway"}
)

func traceID(rng *rand.Rand) string { return fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64()) }

// took is a time in milliseconds as services have them: mostly short.
func took(rng *rand.Rand) string {
	return strconv.FormatFloat(1+rng.ExpFloat64()*40, 'f', 2, 64)
}

func (*corpus) jsonLine(rng *rand.Rand, at time.Time) ([]byte, []wire.Label) {
	return fmt.Appendf(nil, `{"time":%q,"level":"info","service":%q,"msg":"request done","method":"GET","path":"%s/%d","status":%d,"duration_ms":%s,"trace_id":"%s"}`,
		at.Format(time.RFC3339Nano), appService[rng.IntN(len(appService))], appPaths[rng.IntN(len(appPaths))], rng.IntN(100_000),
		appStatus[rng.IntN(len(appStatus))], took(rng), traceID(rng)), nil
}

func (*corpus) logfmtLine(rng *rand.Rand, at time.Time) ([]byte, []wire.Label) {
	return fmt.Appendf(nil, `ts=%s level=info service=%s msg="charge accepted" order=%d amount=%d.%02d took=%sms trace_id=%s`,
		at.Format(time.RFC3339Nano), appService[rng.IntN(len(appService))], rng.IntN(10_000_000), rng.IntN(900), rng.IntN(100), took(rng), traceID(rng)), nil
}

func (*corpus) fieldLine(rng *rand.Rand, _ time.Time) ([]byte, []wire.Label) {
	path := appPaths[rng.IntN(len(appPaths))]
	return fmt.Appendf(nil, "served %s/%d", path, rng.IntN(100_000)), []wire.Label{
		{Name: "elapsed_ms", Value: took(rng)},
		{Name: "http_status", Value: strconv.Itoa(appStatus[rng.IntN(len(appStatus))])},
		{Name: "path", Value: path},
		{Name: "trace_id", Value: traceID(rng)},
	}
}

func (*corpus) chineseLine(rng *rand.Rand, _ time.Time) ([]byte, []wire.Label) {
	switch rng.IntN(4) {
	case 0:
		return fmt.Appendf(nil, "用户 %d 登录成功，来自 10.%d.%d.%d", rng.IntN(1_000_000), rng.IntN(256), rng.IntN(256), 1+rng.IntN(254)), nil
	case 1:
		return fmt.Appendf(nil, "连接数据库超时，正在重试第 %d 次，会话 %s", 1+rng.IntN(5), traceID(rng)), nil
	case 2:
		return fmt.Appendf(nil, "磁盘空间不足：/data%d 剩余 %d%%，已用 %d 字节", rng.IntN(8), rng.IntN(10), rng.Int64N(4e12)), nil
	}
	return fmt.Appendf(nil, "订单 %d 支付失败：余额不足，用户 %d", rng.IntN(100_000_000), rng.IntN(1_000_000)), nil
}

// each calls fn for every line, in the order of their times.
func (c *corpus) each(fn func(i int, l *corpusLine) error) error {
	rng := rand.New(rand.NewPCG(corpusSeed, corpusSeed))
	step := int64(24*time.Hour) / int64(c.n)
	for i := range c.n {
		p := rng.IntN(100)
		k := 0
		for p >= c.kinds[k].weight {
			p -= c.kinds[k].weight
			k++
		}
		l := corpusLine{
			t:    c.day.UnixNano() + int64(i)*step + rng.Int64N(step),
			host: rng.IntN(corpusHosts), file: c.kinds[k].file, severity: wire.SeverityInfo,
		}
		switch s := rng.IntN(50); {
		case s == 0:
			l.severity = wire.SeverityError
		case s < 4:
			l.severity = wire.SeverityWarning
		}
		l.text, l.fields = c.kinds[k].make(c, rng, time.Unix(0, l.t).UTC())
		if i%c.rare == c.rare/2 {
			l.text = append(l.text, " "+rareWord...)
		}
		if err := fn(i, &l); err != nil {
			return err
		}
	}
	return nil
}
