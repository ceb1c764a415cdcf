package members

// Pairs reads the pairs of a logfmt text one by one.
type Pairs struct {
	S string

	// Loose takes pairs as they stand in sentences too: a comma or semicolon ends a value when it is its last character or
	// stands right behind its quote, and a value that is not quoted may hold =. Escapes are left in Value (Escaped).
	Loose bool

	Key, Value string // of the pair at hand; without a = there is no Value
	Bad        string // what is wrong with it, or ""
	Paired     bool   // there is a =
	Escaped    bool   // only with Loose: Value holds escapes as they are written

	i    int
	from int // where Value begins
}

// Next goes to the next pair and reports whether there is one.
func (sc *Pairs) Next() bool {
	s := sc.S
	for sc.i < len(s) && s[sc.i] <= ' ' {
		sc.i++
	}
	if sc.i >= len(s) {
		return false
	}
	sc.Key, sc.Value, sc.Bad, sc.Paired, sc.Escaped = "", "", "", false, false
	start := sc.i
	for sc.i < len(s) && s[sc.i] > ' ' && s[sc.i] != '=' {
		if s[sc.i] == '"' {
			return sc.skip("a quote in a key")
		}
		sc.i++
	}
	sc.Key = s[start:sc.i]
	if sc.i >= len(s) || s[sc.i] != '=' {
		return true // a key alone
	}
	if sc.Key == "" {
		return sc.skip("a value without a key")
	}
	sc.Paired = true
	sc.i++
	if sc.i < len(s) && s[sc.i] == '"' {
		return sc.quoted()
	}
	start = sc.i
	sc.from = start
	for sc.i < len(s) && s[sc.i] > ' ' {
		if s[sc.i] == '=' && !sc.Loose || s[sc.i] == '"' {
			return sc.skip("a value with = or a quote in it that is not quoted")
		}
		sc.i++
	}
	sc.Value = s[start:sc.i]
	if n := len(sc.Value) - 1; sc.Loose && n >= 0 && (sc.Value[n] == ',' || sc.Value[n] == ';') {
		sc.Value = sc.Value[:n]
	}
	return true
}

func (sc *Pairs) quoted() bool {
	sc.i++
	start, escaped := sc.i, false
	sc.from = start
	for sc.i < len(sc.S) && sc.S[sc.i] != '"' {
		if sc.S[sc.i] == '\\' {
			escaped = true
			sc.i++
		}
		sc.i++
	}
	if sc.i >= len(sc.S) {
		sc.i = len(sc.S)
		sc.Bad = "a quote that does not end"
		return true
	}
	sc.Value = sc.S[start:sc.i]
	sc.i++
	if sc.Loose && sc.i < len(sc.S) && (sc.S[sc.i] == ',' || sc.S[sc.i] == ';') {
		sc.i++
	}
	if sc.i < len(sc.S) && sc.S[sc.i] > ' ' {
		return sc.skip("something right behind a quote")
	}
	switch {
	case !escaped:
	case sc.Loose:
		sc.Escaped = true
	default:
		v, ok := unescape(sc.Value)
		if !ok {
			sc.Bad = "a bad escape in a quoted value"
		}
		sc.Value = v
	}
	return true
}

// skip passes over the rest of a malformed pair.
func (sc *Pairs) skip(why string) bool {
	for sc.i < len(sc.S) && sc.S[sc.i] > ' ' {
		sc.i++
	}
	sc.Bad = why
	return true
}
