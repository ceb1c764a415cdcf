package wire

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParseSelector(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                 `{}`,
		` { } `:                              `{}`,
		`{unit="nginx"}`:                     `{unit="nginx"}`,
		`{unit="nginx",}`:                    `{unit="nginx"}`,
		`{b!="2" , a=~"x|y", a=~"x|y"}`:      `{a=~"x|y", b!="2"}`,
		"{a=`c:\\dir`, k8s.pod=\"p\"}":       `{a="c:\\dir", k8s.pod="p"}`,
		`{"strange name"!~"磁盘.+"}`:           `{"strange name"!~"磁盘.+"}`,
		`{a="with \"quotes\" and \n", z=""}`: `{a="with \"quotes\" and \n", z=""}`,
	} {
		s, err := ParseSelector(text)
		if err != nil || s.String() != want {
			t.Errorf("%s is %s, %v, want %s", text, s, err, want)
			continue
		}
		again, err := ParseSelector(s.String())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%s is read as %s, %v", s, again, err)
		}
		r := NewReader(AppendSelector(nil, s), errors.New("malformed"))
		if got := ReadSelector(&r); r.End("selector") != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%s became %s in binary form: %v", s, got, r.Err())
		}
	}
	for text, want := range map[string]string{
		``:                                       "character 1: a selector begins with {",
		`unit="x"`:                               "character 1: a selector begins with {",
		`{unit}`:                                 "character 6: want =, !=, =~ or !~",
		`{unit=nginx}`:                           "character 7: want a value in quotes",
		`{unit="nginx}`:                          "character 7: want",
		`{unit="nginx"`:                          "character 14: want , or }",
		`{unit="a" host="b"}`:                    "character 11: want , or }",
		`{unit="a"} |= "b"`:                      "character 12: nothing may follow",
		`{磁="a"}`:                                "character 2: want the name of a label",
		`{a="磁盘", b=~"("}`:                       "character 13: matcher of b: error parsing regexp",
		`{b=~")("}`:                              "character 5: matcher of b",
		`{a="` + strings.Repeat("x", 600) + `"}`: "at most 512",
		`{` + strings.Repeat(`a="b",c!="d",`, 20) + `}`: "",
		strings.Repeat(" ", 9000):                       "at most 1024",
	} {
		if s, err := ParseSelector(text); want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.40s is %s, %v, want %s", text, s, err, want)
		}
	}
}

func TestPicker(t *testing.T) {
	labels := Labels{{"host", "web-1"}, {"unit", "nginx"}}
	for text, want := range map[string]bool{
		`{}`: true, `{unit="nginx"}`: true, `{unit="ngin"}`: false, `{unit=~"ngin"}`: false, `{unit=~"ngin."}`: true, `{unit!~"ngin"}`: true,
		`{unit!="nginx"}`: false, `{rack=""}`: true, `{rack!=""}`: false, `{rack=~".*"}`: true, `{rack=~".+"}`: false, `{rack!~"a|b"}`: true,
		`{host=~"a|web-1"}`: true, `{host=~"we|web-11"}`: false, `{host="web-1", unit="x"}`: false,
	} {
		s, err := ParseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPicker(s)
		if err != nil || p.Picks(labels.Get) != want {
			t.Errorf("%s picks %v: %v, want %v", text, !want, err, want)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	f.Add(`{unit="nginx", host=~"web.*", env!="prod"}`)
	f.Add("{a=`\\`,}")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelector(text)
		if err != nil {
			return
		}
		again, err := ParseSelector(s.String())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%q became %s, then %s, %v", text, s, again, err)
		}
	})
}
