package block

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
)

// Numbers are what strconv makes of them, to the last bit, and nothing else is one.
func TestNumberIsThatOfStrconv(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	values := []string{
		"", ".", "5.", ".5", "0", "00.10", "1.2.3", "-1", "+1", "1e3", "1_0", "0x10", "NaN", "inf", "1 ", " 1", "１", "999999999999999", "9999999999999999",
		"0.000000000000001", "99999999999999.9", "999999999999999.9", "0.1234567890123456", "123456789.123456", "9007199254740993",
	}
	for range 20_000 {
		var b strings.Builder
		for range 1 + rng.IntN(18) {
			b.WriteByte("0123456789."[rng.IntN(10+rng.IntN(2))])
		}
		values = append(values, b.String())
	}
	short := 0
	for _, v := range values {
		want, err := strconv.ParseFloat(v, 64)
		got, ok := Number(v)
		if ok != (err == nil) || ok && math.Float64bits(got) != math.Float64bits(want) {
			t.Fatalf("%q is %v, %v; want %v, %v", v, got, ok, want, err)
		}
		if _, plain := plainNumber(v); plain {
			short++
		}
	}
	if short < len(values)/3 {
		t.Errorf("%d of %d numbers took the short way", short, len(values))
	}
}

// The numbers of a field are those that its lines have, whether fields are kept by name or line by line, with the lines' times when these
// were decoded.
func TestNumbersOfAField(t *testing.T) {
	c := codec(t)
	for _, byName := range []bool{true, false} {
		for _, version := range []int{Version1, Version2} {
			var lines []Line
			var want []string
			for i := range 300 {
				l := Line{T: int64(i) * 7, Severity: wire.Severity(i % 5), Text: []byte("x")}
				value := []string{"1", strconv.Itoa(i), "slow", "", "1e2", "2.50"}[i%6]
				if i%7 > 0 {
					l.Fields = []wire.Label{{Name: "other", Value: "9"}, {Name: "took", Value: value}}
					if n, err := strconv.ParseFloat(value, 64); err == nil {
						want = append(want, fmt.Sprint(n, l.Severity, l.T))
					}
				}
				lines = append(lines, l)
			}
			out, err := c.Encode(lines, version, nil)
			if err != nil {
				t.Fatal(err)
			}
			var cols Columns
			for _, noTimes := range []bool{false, true} {
				if err := c.DecodeColumns(&cols, out.Columns, len(lines), What{Fields: true, ByName: byName, NoTimes: noTimes}); err != nil {
					t.Fatal(err)
				}
				n, err := cols.Numbers("took")
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for i, v := range n.Values {
					at := int64(0)
					if noTimes != (len(n.Times) == 0) {
						t.Fatalf("times were left out: %v, there are %d", noTimes, len(n.Times))
					}
					if !noTimes {
						at = n.Times[i]
					}
					got = append(got, fmt.Sprint(v, wire.Severity(n.Severities[i]), at))
				}
				if noTimes {
					for i := range want {
						want[i] = want[i][:strings.LastIndexByte(want[i], ' ')] + " 0"
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("by name %v, version %d, without times %v: %d numbers, %d are there: %.200v", byName, version, noTimes, len(got), len(want), got)
				}
				if none, err := cols.Numbers("absent"); err != nil || len(none.Values) > 0 {
					t.Errorf("a field that is not there has the numbers %v: %v", none, err)
				}
			}
		}
	}
}
