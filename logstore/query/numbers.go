package query

// OfNumbers returns the structured field whose numbers alone decide which lines match: those without one do not match.
func (f *Filter) OfNumbers() (field string, ok bool) {
	switch f.op {
	case opField:
		return f.field, f.cmp >= Less && f.text == nil
	case opAnd, opOr:
		for i, k := range f.kids {
			of, is := k.OfNumbers()
			if !is || i > 0 && of != field {
				return "", false
			}
			field = of
		}
		return field, true
	}
	return "", false
}

// MatchesNumber decides a line by its number in the field of OfNumbers.
func (f *Filter) MatchesNumber(n float64) bool {
	for _, k := range f.kids {
		if k.MatchesNumber(n) == (f.op == opOr) {
			return f.op == opOr
		}
	}
	if len(f.kids) > 0 {
		return f.op == opAnd
	}
	return f.compareNumber(n)
}
