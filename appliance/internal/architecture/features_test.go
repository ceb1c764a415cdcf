package architecture

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// featureCount is how many capabilities the mission numbers.
const featureCount = 210

var featureRow = regexp.MustCompile(`^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$`)

// TestEveryFeatureIsListed holds docs/features.md: one row for each number in their order, with a test that exists or
// the word open.
func TestEveryFeatureIsListed(t *testing.T) {
	body, err := os.ReadFile(filepath.Join(root, "docs", "features.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := symbols(t)
	next := 1
	for i, line := range strings.Split(string(body), "\n") {
		m := featureRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if no, _ := strconv.Atoi(m[1]); no != next {
			t.Fatalf("docs/features.md:%d: number %d, want %d", i+1, no, next)
		}
		next++
		if strings.TrimSpace(m[4]) == "open" {
			continue
		}
		tests := named.FindAllStringSubmatch(m[4], -1)
		if len(tests) == 0 {
			t.Errorf("docs/features.md:%d: %s names no test and is not open", i+1, m[1])
		}
		for _, test := range tests {
			if !strings.HasPrefix(test[2], "Test") || !all[test[1]][test[2]] {
				t.Errorf("docs/features.md:%d: there is no test %s.%s", i+1, test[1], test[2])
			}
		}
	}
	if next != featureCount+1 {
		t.Errorf("docs/features.md lists %d numbers, want %d", next-1, featureCount)
	}
}
