//go:build !unix

package owner

// Become does nothing: there is no root here.
func Become(string, string) error { return nil }
