//go:build !(linux || darwin || freebsd)

package events

import "errors"

func usage(string) (Usage, error) { return Usage{}, errors.ErrUnsupported }
