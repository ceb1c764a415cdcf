// Package syntax reads and prints LogQL: the lexer, the parser with the place of each mistake, and the tree of an
// expression. It decides all that can be decided from the text alone (regular expressions, templates of patterns,
// numbers, which function takes what), so that what Parse returns can be run.
//
// It owns no data and must not import the store. The language is that of Loki's public documentation; nothing of
// Loki's own source was read.
package syntax

// Bounds of a query.
const (
	MaxText   = 64 << 10 // bytes of the text
	MaxRegex  = 4 << 10  // bytes of one regular expression
	maxProg   = 20_000   // instructions of one compiled regular expression, as regex.Size counts
	maxProgs  = 50_000   // and of all of one query
	maxDepth  = 64       // nesting of parentheses, functions and operators
	maxTokens = 8192
	maxStages = 256 // of one pipeline
	// maxExtracts bounds the labels that the parsers of a query name, which are looked for in a line one after the other. A line has no more
	// labels (pipeline.MaxLabels).
	maxExtracts = 256
)
