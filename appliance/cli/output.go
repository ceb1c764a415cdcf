package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// outputForm is the flag -o.
type outputForm string

func (f *outputForm) flag(c *cobra.Command) {
	*f = "table"
	c.Flags().VarP(f, "output", "o", "table or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// String implements pflag.Value.
func (f *outputForm) String() string { return string(*f) }

// Set implements pflag.Value.
func (f *outputForm) Set(v string) error {
	if v != "table" && v != "json" {
		return fmt.Errorf("want table or json")
	}
	*f = outputForm(v)
	return nil
}

// Type implements pflag.Value.
func (f *outputForm) Type() string { return "form" }

func (f *outputForm) json() bool { return *f == "json" }

// write prints v as JSON, or for people.
func (f *outputForm) write(out io.Writer, v any, people func() error) error {
	if f.json() {
		return writeJSON(out, v)
	}
	return people()
}

// writeJSON prints v indented; what came from the cluster as it came.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table prints rows in aligned columns under their heads.
type table struct {
	w    *tabwriter.Writer
	cols int
}

func newTable(out io.Writer, heads ...string) *table {
	t := &table{w: tabwriter.NewWriter(out, 0, 4, 2, ' ', 0), cols: len(heads)}
	for i, h := range heads {
		heads[i] = strings.ToUpper(h)
	}
	t.row(heads...)
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = printable(c)
		if c == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) flush() error { return t.w.Flush() }

// printable replaces what would move the cursor or colour the terminal: lines of logs come from anywhere.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, strings.ReplaceAll(s, "\t", "    "))
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	const units = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
