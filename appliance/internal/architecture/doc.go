// Package architecture holds the tests that keep the shape of the tree: who may import whom, what may not be called
// below Apply, that every package and exported name says what it is, and that what ARCHITECTURE.md names exists. It
// has no code of its own and nothing imports it.
package architecture
