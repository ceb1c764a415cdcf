package rules

import "testing"

func TestDurationThatIsNoneHasItsLine(t *testing.T) {
	for body, line := range map[string]int{
		"triward:\n  - name: doors\n    rules:\n      - alert: A\n        logs: {query: x, window: never, above: 0}\n":                             5,
		"triward:\n  - name: doors\n    rules:\n      - alert: A\n        for: soon\n        logs: {query: x, window: 5m, above: 0}\n":             5,
		"triward:\n  - name: doors\n    interval: often\n    rules: []\n":                                                                          3,
		"triward:\n  - name: doors\n    rules:\n      - alert: A\n        logs:\n          query: x\n          window: 5m\n          above: hot\n": 8,
		"groups:\n  - name: g\n    rules:\n      - alert: A\n        expr: up\n        for: soon\n":                                                6,
	} {
		_, err := parse(body)
		bad, ok := err.(*Error)
		if !ok || len(bad.Problems) == 0 || bad.Problems[0].Line != line {
			t.Errorf("%s: %+v, want line %d", body, err, line)
		}
	}
}
