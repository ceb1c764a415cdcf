package syntax

import "testing"

// The page decides the same in logql.ts.
func TestWhichLanguageAQueryIsIn(t *testing.T) {
	const words, lines, numbers = "words", "lines", "numbers"
	for text, want := range map[string]string{
		`{a="b"}`: lines, "  \n{": lines,
		`rate({a="b"}[5m])`:                                         numbers,
		`sum by (host) (rate({a="b"} |= "x" [5m]))`:                 numbers,
		`sum without(host)(rate({a="b"}[5m]))`:                      numbers,
		`topk(5, sum(count_over_time({a="b"}[5m])))`:                numbers,
		`((sum(rate({a="b"}[1m]))) / 2)`:                            numbers,
		`QUANTILE_OVER_TIME(0.99, {a="b"} | json | unwrap ms [5m])`: numbers,
		`label_replace(rate({a="b"}[1m]), "x", "$1", "a", "(.*)")`:  numbers,
		`vector(1)`:                   numbers,
		`count_over_time ({a="b"`:     numbers,
		`sum(rate({a="(#"}[1m])) # }`: numbers,
		``:                            words, `rate`: words, `sort(list)`: words, `max(a OR b)`: words, `rate limit {x}`: words, `sum "{a}"`: words,
		`sort("{a}")`: words, "sort(`{`": words, `error`: words, `nothing({a="b"})`: words, `sum(x) # {a="b"}`: words,
	} {
		got := words
		switch {
		case ForLines(text):
			got = lines
		case ForNumbers(text):
			got = numbers
		}
		if got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}
